"""Learning and forgetting blocks of any size, in either form of the state.

Ridge regression on features H `[N, D]` and targets Y `[N, C]`:

  W = argmin |Y - H W|^2 + gamma |W|^2 = (H'H + gamma I)^-1 H'Y

Whatever the order and the blocks in which rows were learned and forgotten, the state is that of
the rows that are left. Nothing here asks for them: the rows to be forgotten and the state suffice.
All functions compute in the dtype of the state; for float64 call them under `jax.enable_x64(True)`.
Memory is `D^2`, whatever the number of rows. The given state stays valid; to hand its buffers on to
the new one, call `jax.jit(learn, donate_argnums=0)`, and so for `try_forget`.
"""

from functools import partial

import jax
import jax.numpy as jnp

from unlearnjax import checks
from unlearnjax import data as data_lib
from unlearnjax.analytic import gram as gram_lib
from unlearnjax.analytic import inverse as inverse_lib
from unlearnjax.analytic.gram import GramState
from unlearnjax.analytic.inverse import InverseState
from unlearnjax.types import Array

State = InverseState | GramState

FORMS = {"inverse": inverse_lib.init, "gram": gram_lib.init}
BLOCK = 512


def init(
    num_features: int,
    num_classes: int,
    gamma: float = 0.1,
    *,
    form: str = "gram",
    dtype=jnp.float32,
) -> State:
    """The state before any data.

    Args:
      num_features: D.
      num_classes: C; 0 is allowed, `learn` adds columns.
      gamma: the regulariser, > 0. Features of a common scale want it to grow with N.
      form: 'gram' or 'inverse', see `unlearnjax.analytic`.
      dtype: of the state.

    Raises:
      ValueError: for a value out of range.
    """
    checks.at_least(1, num_features=num_features)
    checks.at_least(0, num_classes=num_classes)
    checks.positive(gamma=gamma)
    checks.one_of(form=(form, tuple(FORMS)))
    return FORMS[form](num_features, num_classes, gamma, dtype)


def learn(
    state: State,
    features: Array,
    targets: Array,
    weights: Array | None = None,
    *,
    block_size: int = BLOCK,
) -> State:
    """The state with a block of rows more.

    Args:
      state: what has been learned.
      features: `[n, D]`.
      targets: `[n, C']`, one-hot or real. `C' > C` adds columns: a class that is new counts as
        absent from all rows so far, which is exact.
      weights: `[n]`, >= 0, of the rows; `None` is 1. (Class re-balancing as in G-ACIL and AIR.) A
        row of weight 0 is not there: pad with it to keep shapes, and compiled programs, the same.
      block_size: rows at once; the result does not depend on it.

    Returns:
      The new state. Cost: `2 n D^2` multiplications ('inverse'), or `n D^2 + 2 D^3 / 3` ('gram').

    Raises:
      ValueError: for wrong shapes, and, outside of compiled code, for values that are not finite.
    """
    features, targets = _prepared(state, features, targets, weights)
    return _learn(grow(state, targets.shape[1]), features, targets, block_size=block_size)


def forget(
    state: State,
    features: Array,
    targets: Array,
    weights: Array | None = None,
    *,
    block_size: int = BLOCK,
) -> State:
    """The state that was never given these rows: exactly what `learn` added is taken out.

    Args: as for `learn`; targets (and weights) as the rows were learned with.

    Returns:
      The new state; the given one is left as it was.

    Raises:
      ValueError: as `learn`; and, outside of compiled code, if what would be left is no sum of
        squares: the rows were never learned, or are forgotten a second time. (Rows that were not
        learned but lie well within the span of those that were cannot be told by any method that
        keeps no data: keep a ledger of indices beside it.) In compiled code use `try_forget`.

    Examples:
      >>> from unlearnjax import analytic
      >>> features = jax.random.normal(jax.random.key(0), (20, 4))
      >>> targets = jnp.eye(2)[jnp.arange(20) % 2]
      >>> state = analytic.learn(analytic.init(4, 2), features, targets)
      >>> state = analytic.forget(state, features[:5], targets[:5])
      >>> without = analytic.solve(features[5:], targets[5:])
      >>> bool(jnp.allclose(state.weight, without, atol=1e-5))
      True
    """
    new, possible = try_forget(state, features, targets, weights, block_size=block_size)
    if not checks.traced(possible) and not bool(possible):
        raise ValueError(
            "features must have been learned and not been forgotten yet: without these rows the "
            "autocorrelation would not be positive definite; the state is left as it was"
        )
    return new


def try_forget(
    state: State,
    features: Array,
    targets: Array,
    weights: Array | None = None,
    *,
    block_size: int = BLOCK,
) -> tuple[State, Array]:
    """`forget` for compiled code: the new state and True, or the given state and False.

    Raises:
      ValueError: for wrong shapes, and, outside of compiled code, for values that are not finite.
    """
    features, targets = _prepared(state, features, targets, weights)
    columns = state.weight.shape[1]
    if targets.shape[1] > columns:
        raise ValueError(
            f"targets must have at most the state's {columns} columns to be forgotten, got "
            f"{targets.shape[1]}"
        )
    targets = jnp.pad(targets, ((0, 0), (0, columns - targets.shape[1])))
    return _try_forget(state, features, targets, block_size=block_size)


def forget_class(state: State, features: Array, targets: Array, class_id: int | Array) -> State:
    """Forgets all given rows of one class; its column is then exactly zero.

    Args:
      features, targets: `[n, D]`, `[n, C]` one-hot; rows of other classes are passed over.
      class_id: the class; all of its rows must be given.

    Raises:
      ValueError: as `forget`.
    """
    state = forget(state, features, targets, targets[:, class_id])
    return state._replace(weight=state.weight.at[:, class_id].set(0))


def grow(state: State, num_classes: int) -> State:
    """The state with zero columns added up to `num_classes`; the same if it has them."""
    missing = num_classes - state.weight.shape[1]
    if missing <= 0:
        return state
    wider = lambda x: jnp.pad(x, ((0, 0), (0, missing)))
    state = state._replace(weight=wider(state.weight))
    return state._replace(moment=wider(state.moment)) if isinstance(state, GramState) else state


def predict(state: State, features: Array) -> Array:
    """`[n, C]`: `H W`."""
    return features.astype(state.weight.dtype) @ state.weight


def solve(
    features: Array, targets: Array, gamma: float = 0.1, weights: Array | None = None
) -> Array:
    """`[D, C]`: the weight by one solution over all rows, what every state is measured by."""
    checks.positive(gamma=gamma)
    state = init(features.shape[1], targets.shape[1], gamma, dtype=features.dtype)
    return learn(state, features, targets, weights).weight


def residual(state: GramState) -> Array:
    """`|A W - B| / |B|`: how well the weight solves the equations of what is left.

    The certificate of a deletion: with the condition number of A it bounds the distance to the
    exact solution.
    """
    error = jnp.linalg.norm(state.gram @ state.weight - state.moment)
    return error / jnp.maximum(jnp.linalg.norm(state.moment), jnp.finfo(state.gram.dtype).tiny)


def leave_one_out(state: State, features: Array, targets: Array) -> Array:
    """`[n, C]`: residual of each learned row under the state that never saw it, in closed form.

    `(y - h W) / (1 - h R h')`: the exact influence of every row on its own prediction.

    References:
      Allen, "The Relationship between Variable Selection and Data Augmentation", 1974 (PRESS).
    """
    features, targets = _prepared(state, features, targets, None)
    if isinstance(state, InverseState):
        leverage = jnp.sum((features @ state.inverse) * features, axis=1)
    else:
        factor = jnp.linalg.cholesky(state.gram)
        rows = jax.scipy.linalg.solve_triangular(factor, features.T, lower=True)
        leverage = jnp.sum(rows**2, axis=0)
    return (targets - features @ state.weight) / (1 - leverage)[:, None]


@partial(jax.jit, static_argnames="block_size")
def _learn(state: State, features: Array, targets: Array, *, block_size: int) -> State:
    if isinstance(state, InverseState):
        return _over_blocks(inverse_lib.add, state, features, targets, block_size)
    add = lambda state, h, y: gram_lib.accumulate(state, h, y, 1)
    return gram_lib.refresh(_over_blocks(add, state, features, targets, block_size))[0]


@partial(jax.jit, static_argnames="block_size")
def _try_forget(state: State, features: Array, targets: Array, *, block_size: int):
    if isinstance(state, InverseState):

        def subtract(carry, h, y):
            new, possible = inverse_lib.subtract(carry[0], h, y)
            return new, carry[1] & possible

        start = (state, jnp.bool_(True))
        new, possible = _over_blocks(subtract, start, features, targets, block_size)
    else:
        subtract = lambda state, h, y: gram_lib.accumulate(state, h, y, -1)
        new, possible = gram_lib.refresh(
            _over_blocks(subtract, state, features, targets, block_size)
        )
    return jax.tree.map(lambda n, s: jnp.where(possible, n, s), new, state), possible


def _over_blocks(fn, carry, features: Array, targets: Array, block_size: int):
    """`fn(carry, h, y)` over blocks of at most `block_size` rows, the last one filled with zeros.

    A row of zeros changes neither form of the state.
    """
    n = features.shape[0]
    if n <= block_size:
        return fn(carry, features, targets)
    rows = data_lib.pad_indices(jnp.arange(n), block_size)
    keep = (rows >= 0)[..., None]
    blocks = (jnp.where(keep, features[rows], 0), jnp.where(keep, targets[rows], 0))
    return jax.lax.scan(lambda c, block: (fn(c, *block), None), carry, blocks)[0]


def _prepared(state: State, features: Array, targets: Array, weights: Array | None):
    """Checked, in the state's dtype, rows scaled by the root of their weight."""
    width, dtype = state.weight.shape[0], state.weight.dtype
    for name, value in (("features", features), ("targets", targets)):
        if jnp.ndim(value) != 2:
            raise ValueError(f"{name} must have two axes, got shape {jnp.shape(value)}")
    if features.shape[1] != width:
        raise ValueError(f"features must be [n, {width}], got {features.shape}")
    if targets.shape[0] != features.shape[0]:
        raise ValueError(
            f"targets must have the {features.shape[0]} rows of features, got {targets.shape[0]}"
        )
    if weights is not None and jnp.shape(weights) != (features.shape[0],):
        raise ValueError(f"weights must be [{features.shape[0]}], got {jnp.shape(weights)}")
    features, targets = (jnp.asarray(x).astype(dtype) for x in (features, targets))
    for name, value in (("features", features), ("targets", targets)):
        if not checks.traced(value) and not bool(jnp.isfinite(value).all()):
            raise ValueError(f"{name} must be finite, got NaN or infinity")
    if weights is None:
        return features, targets
    root = jnp.sqrt(jnp.asarray(weights).astype(dtype))[:, None]
    return features * root, targets * root
