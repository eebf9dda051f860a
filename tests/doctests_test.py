import doctest
import importlib
import pkgutil

import pytest

import unlearnjax

MODULES = [m.name for m in pkgutil.walk_packages(unlearnjax.__path__, "unlearnjax.")]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0
