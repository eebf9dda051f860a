import doctest
import importlib
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import unlearnjax

MODULES = [m.name for m in pkgutil.walk_packages(unlearnjax.__path__, "unlearnjax.")]
# What a reader has imported anyway.
USUAL = {"jax": jax, "jnp": jnp, "np": np, "optax": optax}


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name):
    result = doctest.testmod(importlib.import_module(name), extraglobs=USUAL)
    assert result.failed == 0
