"""The wheel: what `pip install` puts into somebody's site-packages."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
NEEDED = ("unlearnjax", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")


def test_the_wheel_holds_the_library_and_nothing_else(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in (*NEEDED, "experiments", "configs", "tests"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    build = "from setuptools import build_meta; build_meta.build_wheel('..')"
    built = subprocess.run(
        [sys.executable, "-c", build], cwd=source, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    code = {name for name in names if ".dist-info/" not in name}
    there = {path.relative_to(ROOT).as_posix() for path in (ROOT / "unlearnjax").rglob("*.py")}
    assert code == there
