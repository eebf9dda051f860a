"""The documentation site, as CI builds it, has every public name of the library."""

import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import unlearnjax

ROOT = Path(__file__).parents[1]
ROOMS = [m.name for m in pkgutil.iter_modules(unlearnjax.__path__, "unlearnjax.")]


def public(room):
    """Functions and classes that a room offers."""
    module = importlib.import_module(room)
    for name in getattr(module, "__all__", ()):
        value = getattr(module, name)
        if inspect.ismodule(value):
            yield from public(f"{room}.{name}")
        elif callable(value):
            yield f"{room}.{name}"


def test_every_public_name_is_in_the_reference(tmp_path):
    pytest.importorskip("mkdocstrings", reason="needs the extra docs")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", f"--site-dir={tmp_path}"]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    pages = [page.read_text() for page in tmp_path.glob("api/*/index.html")]
    there = {anchor for page in pages for anchor in re.findall(r'id="(unlearnjax\.[\w.]+)"', page)}
    names = [name for room in ROOMS for name in public(room)]
    assert len(names) > 150
    # A function of a module of its own name stands under the module's path.
    missing = [n for n in names if not {n, f"{n}.{n.rpartition('.')[2]}"} & there]
    assert not missing
