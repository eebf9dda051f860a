"""Small real problems and comparisons that many tests share."""

import jax
import numpy as np
from jax.extend import core
from sklearn.datasets import load_digits

from unlearnjax import models, tasks


def digits(num_examples: int | None = None):
    """Standardised digits `[N, 8, 8, 1]` as a data set."""
    images, targets = load_digits(return_X_y=True)
    images = ((images - images.mean()) / images.std()).astype(np.float32)
    return {
        "inputs": images.reshape(-1, 8, 8, 1)[:num_examples],
        "targets": targets.astype(np.int32)[:num_examples],
        "index": np.arange(len(targets), dtype=np.int32)[:num_examples],
    }


def mlp(hidden=(16,)):
    return tasks.classification(tasks.from_linen(models.MLP(num_classes=10, hidden=hidden)))


def softmax_regression():
    return mlp(hidden=())


def linen(module):
    return tasks.classification(tasks.from_linen(module))


def init(task, data, seed: int = 0):
    return task.init(jax.random.key(seed), {k: v[:1] for k, v in data.items()})


def assert_trees_close(actual, expected, rtol=1e-5, atol=0.0):
    """Leafwise; `rtol` is relative to the largest entry of the whole expected tree."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    largest = max(float(np.abs(leaf).max(initial=0)) for leaf in jax.tree.leaves(expected))
    jax.tree.map(
        lambda a, e: np.testing.assert_allclose(a, e, rtol=0, atol=rtol * largest + atol),
        actual,
        expected,
    )


def shapes(fn, *args):
    """Shapes of all that `fn(*args)` computes on its way, in inner programs too."""

    def of(program):
        for equation in program.eqns:
            yield from (variable.aval.shape for variable in equation.outvars)
            for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=is_program):
                if is_program(inner):
                    yield from of(getattr(inner, "jaxpr", inner))

    is_program = lambda x: isinstance(x, core.Jaxpr | core.ClosedJaxpr)
    return set(of(jax.make_jaxpr(fn)(*args).jaxpr))


def assert_trees_equal(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def equations(jaxpr):
    """All equations of a program and of the programs inside it."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_program):
            if _is_program(value):
                yield from equations(getattr(value, "jaxpr", value))


def _is_program(value):
    return hasattr(value, "eqns") or hasattr(getattr(value, "jaxpr", None), "eqns")
