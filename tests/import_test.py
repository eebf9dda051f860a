import subprocess
import sys


def test_importing_the_package_loads_no_heavy_optional_library():
    code = (
        "import sys, unlearnjax; heavy = {'tensorflow', 'tensorflow_datasets', 'matplotlib', "
        "'orbax.checkpoint', 'sklearn', 'tensorboardX', 'ml_collections'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert output.stdout.strip() == "[]", output.stdout + output.stderr


def test_every_public_name_is_documented():
    import inspect

    import unlearnjax
    from unlearnjax import audit, report

    rooms = [getattr(unlearnjax, name) for name in unlearnjax.__all__]
    rooms = [room for room in rooms if inspect.ismodule(room)]
    assert len(rooms) >= 6
    rooms += [audit, report, unlearnjax.data]
    missing = []
    for room in rooms:
        names = getattr(room, "__all__", [n for n in vars(room) if not n.startswith("_")])
        for name in names:
            value = getattr(room, name)
            if callable(value) and inspect.getmodule(value).__name__.startswith("unlearnjax"):
                if not inspect.getdoc(value):
                    missing.append(f"{room.__name__}.{name}")
    assert not missing
