import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_importing_the_package_loads_no_heavy_optional_library():
    code = (
        "import sys, unlearnjax; heavy = {'tensorflow', 'tensorflow_datasets', 'matplotlib', "
        "'orbax.checkpoint', 'sklearn', 'tensorboardX', 'ml_collections', 'safetensors', "
        "'tokenizers'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert output.stdout.strip() == "[]", output.stdout + output.stderr


def test_every_public_name_is_documented():
    import inspect

    import unlearnjax
    from unlearnjax import audit, pretrained, report

    rooms = [getattr(unlearnjax, name) for name in unlearnjax.__all__]
    rooms = [room for room in rooms if inspect.ismodule(room)]
    assert len(rooms) >= 6
    rooms += [audit, pretrained, report, unlearnjax.data]
    missing = []
    for room in rooms:
        names = getattr(room, "__all__", [n for n in vars(room) if not n.startswith("_")])
        for name in names:
            value = getattr(room, name)
            if callable(value) and inspect.getmodule(value).__name__.startswith("unlearnjax"):
                if not inspect.getdoc(value):
                    missing.append(f"{room.__name__}.{name}")
    assert not missing


def imported_by(path):
    """Dotted names that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_imports_go_down_from_commands_to_what_they_share_to_the_library():
    for path in (ROOT / "unlearnjax").rglob("*.py"):
        above = ("experiments", "configs", "tests")
        assert not [name for name in imported_by(path) if name.split(".")[0] in above], path
    files = list((ROOT / "experiments" / "common").rglob("*.py"))
    assert len(files) > 15
    for path in files:
        names = [name for name in imported_by(path) if name.startswith("experiments.")]
        assert all(name.startswith("experiments.common") for name in names), path
    # A modality knows the problem it judges; whoever makes problems knows no modality.
    room = ROOT / "experiments" / "common" / "evaluations"
    for path in (path for path in files if path.parent != room):
        names = [name for name in imported_by(path) if ".evaluations." in name]
        assert not names, path
