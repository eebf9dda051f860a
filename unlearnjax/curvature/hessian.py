"""Products with the Hessian of a mean loss and with its inverse, one pass over the data each."""

from functools import partial

import jax
import jax.numpy as jnp
import optax

from unlearnjax import checks, tasks
from unlearnjax import data as data_lib
from unlearnjax.curvature.fisher import mean_over_batches
from unlearnjax.curvature.per_example import example_loss, gradient, tangent
from unlearnjax.types import Array, Data, PyTree, Task, Variables

INVERSE_METHODS = ("cg", "lissa", "woodfisher")


def mean_gradient(task: Task, variables: Variables, data: Data, *, batch_size: int = 256) -> PyTree:
    """Gradient of the mean loss over `data` by the parameters, in evaluation mode; one pass."""
    loss = partial(_batch_loss, task, variables)
    params = variables["params"]
    return mean_over_batches(lambda batch: gradient(loss)(params, batch), params, data, batch_size)


def hessian_vector_product(
    task: Task, variables: Variables, data: Data, vector: PyTree, *, batch_size: int = 256
) -> PyTree:
    """`H v` with H the Hessian of the mean loss over `data`, in evaluation mode.

    Forward over reverse; one pass, about twice the cost of a gradient.

    Args:
      task, variables: the model.
      data: `[N, ...]` arrays.
      vector: a tree like the parameters; a parameter of integers has no derivatives, hence zeros.
      batch_size: examples at once; the result does not depend on it.

    Examples:
      >>> from unlearnjax import curvature, tasks
      >>> init = lambda rng, batch: {"params": jnp.zeros((2, 1))}
      >>> apply = lambda v, batch, rng, train: ({"logits": batch["inputs"] @ v["params"]}, v)
      >>> task = tasks.regression(tasks.Model(init, apply))
      >>> x = jnp.array([[1.0, 2.0], [3.0, 4.0]])
      >>> data = {"inputs": x, "targets": jnp.zeros(2)}
      >>> vector = jnp.array([[1.0], [0.0]])
      >>> product = curvature.hessian_vector_product(task, init(None, None), data, vector)
      >>> product.tolist(), (x.T @ x / 2 @ vector).tolist()
      ([[5.0], [7.0]], [[5.0], [7.0]])
    """

    params = variables["params"]

    def product(batch):
        at = lambda p: gradient(partial(_batch_loss, task, variables))(p, batch)
        return jax.jvp(at, (params,), (tangent(params, vector),))[1]

    return mean_over_batches(product, params, data, batch_size)


def inverse_hessian_vector_product(
    task: Task,
    variables: Variables,
    data: Data,
    vector: PyTree,
    *,
    method: str = "cg",
    damping: float = 0.01,
    num_steps: int = 50,
    scale: float = 10.0,
    rng: Array | None = None,
    batch_size: int = 256,
) -> PyTree:
    """`(H + damping I)^-1 v`, or an approximation of it.

    Args:
      task, variables, data, vector, batch_size: see `hessian_vector_product`.
      method: 'cg': conjugate gradients, `num_steps` passes; right where H + damping I is positive
        definite. 'lissa': the truncated Neumann series of Agarwal et al. (2017) with full-batch
        products, `num_steps` passes; converges where the eigenvalues of H + damping I lie in
        (0, 2 scale). 'woodfisher': the rank-one recursion of the published unlearning code (Izzo et
        al., 2021; Jia et al., 2023) over `num_steps` gradients of single examples; it takes the
        empirical Fisher for H and ignores `damping` and weights.
      damping: added to the diagonal, >= 0.
      num_steps: see `method`.
      scale: for 'lissa', > 0.
      rng: key that draws the examples of 'woodfisher'.

    Returns:
      A tree like `vector`, in its types.

    Raises:
      ValueError: for an unknown method or a value out of range, or 'woodfisher' without `rng`.
    """
    checks.one_of(method=(method, INVERSE_METHODS))
    checks.at_least(0, damping=damping)
    checks.at_least(1, num_steps=num_steps)
    checks.positive(scale=scale)
    if method == "woodfisher" and rng is None:
        raise ValueError("rng must be given for method='woodfisher', got None")

    def damped(v):
        product = hessian_vector_product(task, variables, data, v, batch_size=batch_size)
        return jax.tree.map(lambda h, x: h + damping * x, product, v)

    wide = _wide(vector)
    if method == "cg":
        solution = jax.scipy.sparse.linalg.cg(damped, wide, maxiter=num_steps, tol=1e-6)[0]
    elif method == "lissa":
        solution = _lissa(damped, wide, num_steps, scale)
    else:
        solution = _woodfisher(task, variables, data, wide, num_steps, rng)
    return jax.tree.map(lambda s, v: s.astype(v.dtype), solution, vector)


def _wide(tree: PyTree) -> PyTree:
    """In float32 what has fewer digits: recursions add small to large."""
    return jax.tree.map(lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32)), tree)


def _lissa(damped, vector, num_steps: int, scale: float) -> PyTree:
    """`e <- v + (I - H / scale) e`, from v, for the damped H; at last by scale."""

    def series(estimate, _):
        product = damped(estimate)
        return jax.tree.map(lambda v, e, h: v + e - h / scale, vector, estimate, product), None

    estimate = jax.lax.scan(series, vector, length=num_steps)[0]
    return jax.tree.map(lambda e: e / scale, estimate)


def _woodfisher(task, variables, data, vector, num_steps: int, rng: Array) -> PyTree:
    """`k <- k - o (k.g) / (N + o.g)`, `o <- o - o (o.g) / (N + o.g)`; o starts at the first g."""
    n = data_lib.num_examples(data)
    rows = jax.random.choice(rng, n, (num_steps + 1,), replace=num_steps + 1 > n)

    def of_row(row):
        example = jax.tree.map(lambda x: jnp.asarray(x)[row], dict(data))
        return _wide(gradient(example_loss(task, variables))(variables["params"], example))

    def one(carry, row):
        k, o = carry
        g = of_row(row)
        along = optax.tree.vdot(o, g)
        kg = optax.tree.vdot(k, g) / (num_steps + along)
        og = along / (num_steps + along)
        k = jax.tree.map(lambda k, o: k - kg * o, k, o)
        return (k, jax.tree.map(lambda o: o - og * o, o)), None

    return jax.lax.scan(one, (vector, of_row(rows[0])), rows[1:])[0][0]


def _batch_loss(task: Task, variables: Variables, params: PyTree, batch) -> Array:
    """Weighted sum of the losses of a batch."""
    task = tasks.expected(task)
    outputs, _ = task.apply({**variables, "params": params}, batch, None, False)
    return jnp.sum(task.loss(outputs, batch) * batch["weight"])
