"""Learning and forgetting blocks of any size, in either form of the state.

Ridge regression on features H `[N, D]` and targets Y `[N, C]`:

  W = argmin |Y - H W|^2 + gamma |W|^2 = (H'H + gamma I)^-1 H'Y

Whatever the order and the blocks in which rows were learned and forgotten, the state is that of
the rows that are left. Nothing here asks for them: the rows to be forgotten and the state suffice.
All functions compute in float64, whatever the types of rows and state and the caller's settings,
and answer in the type of the state; `precision` says for which scales that is right, and beyond
them they refuse. Rows may be of any real type, arrays or lists.
Memory is `D^2`, whatever the number of rows. The given state stays valid; to hand its buffers on to
the new one, call `jax.jit(learn, donate_argnums=0)`, and so for `try_forget`.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from unlearnjax import checks
from unlearnjax import data as data_lib
from unlearnjax.analytic import gram as gram_lib
from unlearnjax.analytic import inverse as inverse_lib
from unlearnjax.analytic import precision
from unlearnjax.analytic.gram import GramState
from unlearnjax.analytic.inverse import InverseState
from unlearnjax.types import Array

State = InverseState | GramState

FORMS = {"inverse": inverse_lib.init, "gram": gram_lib.init}
BLOCK = 512
_ROUNDED_AWAY = (
    "gamma must be larger, or the features smaller (form 'gram' carries further than 'inverse'): "
    "float64 rounds away beside them what decides {}"
)


@precision.float64
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
      dtype: of the weight and of what is predicted, floating. What is kept of the data is float64.

    Raises:
      ValueError: for a value out of range.
    """
    checks.at_least(1, num_features=num_features)
    checks.at_least(0, num_classes=num_classes)
    checks.positive(gamma=gamma)
    checks.one_of(form=(form, tuple(FORMS)))
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"dtype must be floating, got {jnp.dtype(dtype).name}")
    return FORMS[form](num_features, num_classes, gamma, dtype)


@precision.float64
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
      ValueError: for wrong shapes; and, outside of compiled code, for values that are not finite,
        negative weights, and where gamma is lost to rounding beside the rows (`precision`). In
        compiled code all of the new state is NaN then.
    """
    features, targets = _prepared(state, features, targets, weights)
    state = grow(state, targets.shape[1])
    new, accurate = _learn(state, features, targets, block_size=block_size)
    if precision.broken(accurate):
        raise ValueError(_ROUNDED_AWAY.format("the weight"))
    return _unless_refused(new, accurate)


@precision.float64
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
        keeps no data: keep a ledger of indices beside it.) Another error tells that rounding hides
        what is left. In compiled code all of the new state is NaN then, or use `try_forget`.

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
    rows = _to_forget(state, features, targets, weights)
    new, accurate, possible = _forget(state, *rows, block_size=block_size)
    if precision.broken(possible):
        raise ValueError(
            "features must have been learned and not been forgotten yet: without these rows the "
            "autocorrelation would not be positive definite; the state is left as it was"
        )
    if precision.broken(accurate):
        raise ValueError(_ROUNDED_AWAY.format("what is left; the state is left as it was"))
    return _unless_refused(new, accurate & possible)


@precision.float64
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
      ValueError: for wrong shapes; and, outside of compiled code, for values that are not finite
        and negative weights.
    """
    rows = _to_forget(state, features, targets, weights)
    new, accurate, possible = _forget(state, *rows, block_size=block_size)
    possible = accurate & possible
    return jax.tree.map(lambda n, s: jnp.where(possible, n, s), new, _wide(state)), possible


@precision.float64
def forget_class(state: State, features: Array, targets: Array, class_id: int | Array) -> State:
    """Forgets all given rows of one class; its column is then exactly zero.

    Args:
      features, targets: `[n, D]`, `[n, C]` one-hot; rows of other classes are passed over.
      class_id: the class, in 0..C-1; all of its rows must be given. In compiled code one that is
        out of range forgets nothing.

    Raises:
      ValueError: as `forget`; and, outside of compiled code, for a class out of range and targets
        that are not 0 or 1.
    """
    columns = state.weight.shape[1]
    _, targets = _prepared(state, features, targets, None)
    if not checks.traced(class_id) and np.asarray(class_id).item() not in range(columns):
        raise ValueError(f"class_id must lie in 0..{columns - 1}, got {class_id}")
    if precision.broken(((targets == 0) | (targets == 1)).all()):
        raise ValueError("targets must be one-hot, of 0 and 1 alone, to forget a class")
    column = jnp.arange(columns) == class_id
    weights = jax.lax.dot(targets, column[: targets.shape[1]].astype(targets.dtype))
    state = forget(state, features, targets, weights)
    cleared = lambda weight: jnp.where(column, 0, weight)
    state = state._replace(weight=cleared(state.weight))
    if isinstance(state, GramState) or state.solution is None:
        return state
    return state._replace(solution=cleared(state.solution))


@precision.float64
def grow(state: State, num_classes: int) -> State:
    """The state with zero columns added up to `num_classes`; the same if it has them."""
    missing = num_classes - state.weight.shape[1]
    if missing <= 0:
        return state
    columns = {name: getattr(state, name, None) for name in ("weight", "moment", "solution")}
    wider = {k: jnp.pad(x, ((0, 0), (0, missing))) for k, x in columns.items() if x is not None}
    return state._replace(**wider)


@precision.float64
def predict(state: State, features: Array) -> Array:
    """`[n, C]`: `H W`."""
    weight = state.weight.astype(jnp.float64)
    features = jnp.asarray(features).astype(jnp.float64)
    return jax.lax.dot(features, weight).astype(state.weight.dtype)


def solve(
    features: Array, targets: Array, gamma: float = 0.1, weights: Array | None = None
) -> Array:
    """`[D, C]`: the weight by one solution over all rows, what every state is measured by.

    In the type of the features, float32 if that is not floating.

    Raises:
      ValueError: as `learn`, and for a gamma that is not positive.
    """
    shapes = [jnp.shape(x) for x in (features, targets)]
    if any(len(shape) != 2 for shape in shapes):
        raise ValueError(f"features and targets must have two axes, got shapes {shapes}")
    dtype = precision.floating(features)
    state = init(shapes[0][1], shapes[1][1], gamma, dtype=dtype)
    return learn(state, features, targets, weights).weight


@precision.float64
def residual(state: GramState) -> Array:
    """`|A W - B| / |B|`: how well the weight solves the equations of what is left.

    The certificate of a deletion: with the condition number of A it bounds the distance to the
    exact solution.
    """
    state = _wide(state)
    product = jax.lax.dot(state.gram, state.weight.astype(jnp.float64))
    error = jnp.linalg.norm(product - state.moment)
    return error / jnp.maximum(jnp.linalg.norm(state.moment), jnp.finfo(state.gram.dtype).tiny)


@precision.float64
def leave_one_out(state: State, features: Array, targets: Array) -> Array:
    """`[n, C]`: residual of each learned row under the state that never saw it, in closed form.

    `(y - h W) / (1 - h R h')`: the exact influence of every row on its own prediction.

    Raises:
      ValueError: for wrong shapes; and, outside of compiled code, for values that are not finite
        and where rounding hides `1 - h R h'`: the row was not learned, or determines its own
        prediction (fewer rows than features and a small gamma). In compiled code that row is NaN.

    References:
      Allen, "The Relationship between Variable Selection and Data Augmentation", 1974 (PRESS).
    """
    features, targets = _prepared(state, features, targets, None)
    dtype, state = state.weight.dtype, _wide(state)
    if isinstance(state, InverseState):
        weight = state.weight if state.solution is None else state.solution
        leverage = jnp.sum(jax.lax.dot(features, state.inverse) * features, axis=1)
        scale = jnp.sum(features**2, axis=1) / state.gamma
    else:
        factor = jnp.linalg.cholesky(state.gram)
        weight = jax.scipy.linalg.cho_solve((factor, True), state.moment)
        rows = jax.scipy.linalg.solve_triangular(factor, features.T, lower=True)
        leverage = jnp.sum(rows**2, axis=0)
        scale = (jnp.diagonal(state.gram) / jnp.diagonal(factor) ** 2).max()
    accurate = 1 - leverage > precision.rounded_away(scale)
    if precision.broken(accurate.all()):
        raise ValueError(_ROUNDED_AWAY.format("what is left without a row, if it was learned"))
    residuals = (targets - jax.lax.dot(features, weight)) / (1 - leverage)[:, None]
    return jnp.where(accurate[:, None], residuals, jnp.nan).astype(dtype)


@partial(jax.jit, static_argnames="block_size")
def _learn(state: State, features: Array, targets: Array, *, block_size: int):
    """The new state, and whether it is accurate."""
    if isinstance(state, InverseState):
        new, accurate, possible = _blockwise(inverse_lib.add, state, features, targets, block_size)
        return new, accurate & possible
    add = lambda state, h, y: gram_lib.accumulate(state, h, y, 1)
    new = _over_blocks(add, _wide(state), features, targets, block_size)
    return gram_lib.refresh(new, jnp.diagonal(new.gram))[:2]


@partial(jax.jit, static_argnames="block_size")
def _forget(state: State, features: Array, targets: Array, *, block_size: int):
    """The new state, whether it is accurate, and whether the rows can have been learned."""
    if isinstance(state, InverseState):
        return _blockwise(inverse_lib.subtract, state, features, targets, block_size)
    subtract = lambda state, h, y: gram_lib.accumulate(state, h, y, -1)
    new = _over_blocks(subtract, _wide(state), features, targets, block_size)
    return gram_lib.refresh(new, jnp.diagonal(state.gram))


def _blockwise(fn, state: InverseState, features: Array, targets: Array, block_size: int):
    """`fn` of the inverse form over blocks, and whether every block was accurate and possible."""

    def one(carry, h, y):
        new, accurate, possible = fn(carry[0], h, y)
        return new, carry[1] & accurate, carry[2] & possible

    start = (_wide(state), jnp.bool_(True), jnp.bool_(True))
    return _over_blocks(one, start, features, targets, block_size)


def _wide(state: State) -> State:
    """The state with all that is not the rounded weight in float64, whoever made it."""
    wide = jax.tree.map(lambda x: jnp.asarray(x).astype(jnp.float64), state)
    return wide._replace(weight=jnp.asarray(state.weight))


def _unless_refused(state: State, accurate: Array) -> State:
    """The state, or NaN: what compiled code has for an error."""
    return jax.tree.map(lambda x: jnp.where(accurate, x, jnp.nan), state)


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


def _to_forget(state: State, features: Array, targets: Array, weights: Array | None):
    """As `_prepared`, with the columns of the state."""
    features, targets = _prepared(state, features, targets, weights)
    columns = state.weight.shape[1]
    if targets.shape[1] > columns:
        raise ValueError(
            f"targets must have at most the state's {columns} columns to be forgotten, got "
            f"{targets.shape[1]}"
        )
    return features, jnp.pad(targets, ((0, 0), (0, columns - targets.shape[1])))


def _prepared(state: State, features: Array, targets: Array, weights: Array | None):
    """Checked, in float64, rows scaled by the root of their weight."""
    width = state.weight.shape[0]
    given = {"features": features, "targets": targets}
    given = {name: jnp.asarray(value) for name, value in given.items()}
    for name, value in given.items():
        if value.ndim != 2:
            raise ValueError(f"{name} must have two axes, got shape {value.shape}")
    features, targets = given.values()
    if features.shape[1] != width:
        raise ValueError(f"features must be [n, {width}], got {features.shape}")
    if targets.shape[0] != features.shape[0]:
        raise ValueError(
            f"targets must have the {features.shape[0]} rows of features, got {targets.shape[0]}"
        )
    if weights is not None:
        given["weights"] = jnp.asarray(weights)
        if given["weights"].shape != (features.shape[0],):
            raise ValueError(f"weights must be [{features.shape[0]}], got {given['weights'].shape}")
    for name, value in given.items():
        if jnp.issubdtype(value.dtype, jnp.complexfloating):
            raise ValueError(f"{name} must be real, got {value.dtype.name}")
        if precision.broken(jnp.isfinite(value).all()):
            raise ValueError(f"{name} must be finite, got NaN or infinity")
    features, targets, *weights = (x.astype(jnp.float64) for x in given.values())
    if not weights:
        return features, targets
    if precision.broken((weights[0] >= 0).all()):
        raise ValueError(f"weights must be >= 0, got {float(weights[0].min())}")
    root = jnp.sqrt(weights[0])[:, None]
    return features * root, targets * root
