"""Several players on one model: sub-steps over named parts of its parameters, one after another."""

import itertools
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from unlearnjax import checks
from unlearnjax.training.averages import average_of, is_averaged
from unlearnjax.training.step import LossFn, Step, TrainState, make_step
from unlearnjax.types import Array, PyTree, Variables

# The part of a player that moves all parameters.
WHOLE = ""
# All parameters, beside the part that a player moves.
_ALL = "_all_params"


class Player(NamedTuple):
    """One of several that move parts of a model in turn.

    Attributes:
      loss: what it minimises, of all variables; only its own part gets a gradient.
      tx: how; or the name of another player, whose part it moves by whose transformation and
        optimizer state, e.g. a penalty that is added every sixteenth step.
      every: it acts in the steps whose number, from 0, is a multiple of this; or
        `step -> bool`, e.g. after a warm-up of the others.
      against: a second loss; `tx` is handed the gradient of its mean as the extra argument
        `against`, see `make_step` and `unlearning.transforms.project_conflict`.
      max_norm: that gradient is clipped to, > 0.
      part: the entry of `params` that it moves, by default that of its own name; `WHOLE` is all.
    """

    loss: LossFn
    tx: optax.GradientTransformation | str
    every: int | Callable[[Array], Array] = 1
    against: LossFn | None = None
    max_norm: float = math.inf
    part: str | None = None


def init_players(variables: Variables, players: Mapping[str, Player]) -> TrainState:
    """The state before the first step; every player that has a transformation has a state of it.

    Raises:
      ValueError: for a part that `params` do not have, and for parts that overlap of players that
        both average them: no single model is their average.
    """
    _validate(players)
    params = variables["params"]
    parts = {name: _part(name, player) for name, player in _owners(players).items()}
    for name, part in parts.items():
        if part != WHOLE:
            checks.one_of(**{f"part of players[{name!r}]": (part, sorted(params))})
    opt_states = {name: players[name].tx.init(_of(params, part)) for name, part in parts.items()}
    averaging = {name: parts[name] for name, state in opt_states.items() if is_averaged(state)}
    for one, two in itertools.combinations(averaging, 2):
        if averaging[one] == averaging[two] or WHOLE in (averaging[one], averaging[two]):
            raise ValueError(f"players {one!r} and {two!r} must not average the same parameters")
    return TrainState(jnp.zeros((), jnp.int32), variables, opt_states)


def alternate(players: Mapping[str, Player], axis_name: str | None = None) -> Step:
    """`(state, batch, rng) -> (state, metrics)`: a sub-step of every player on one batch.

    They act in the order of the mapping, each on what those before it have made. `state.step`
    counts these outer steps. All see the same batch; what it draws, and all else that is random,
    each draws for itself, the first as `make_step` does. Whatever takes a step takes this one:
    `run_epochs`, `stream_epochs`, recipes (`alternation`), checkpoints.

    Args:
      players: by name. With one, of all parameters, this is `make_step`.
      axis_name: see `make_step`.

    Returns:
      The step. With several players metrics are named `PLAYER.METRIC`, and their means are over the
      steps in which that player acts.

    Raises:
      ValueError: for no players, a value out of range, or a player that shares the transformation
        of one that has none.

    Examples:
      >>> from unlearnjax import training
      >>> def bilinear(sign):  # one pulls x * y down, the other one up
      ...     def loss_fn(variables, batch, rng):
      ...         value = sign * variables["params"]["x"] * variables["params"]["y"]
      ...         return value * batch["weight"], ({"value": value * batch["weight"]}, variables)
      ...     return loss_fn
      >>> players = {
      ...     "x": training.Player(bilinear(1.0), optax.sgd(0.5)),
      ...     "y": training.Player(bilinear(-1.0), optax.sgd(0.5)),
      ... }
      >>> start = {"params": {"x": jnp.array(1.0), "y": jnp.array(2.0)}}
      >>> state = training.init_players(start, players)
      >>> step = training.alternate(players)
      >>> state, metrics = step(state, {"weight": jnp.ones(3)}, jax.random.key(0))
      >>> jax.tree.map(float, state.variables["params"])  # y sees the x that has moved
      {'x': 0.0, 'y': 2.0}
      >>> sorted(metrics)
      ['weight', 'x.value', 'x.weight', 'y.value', 'y.weight']
    """
    _validate(players)
    steps = {name: _sub_step(name, players, axis_name) for name in players}

    def step(state: TrainState, batch, rng: Array):
        variables, opt_states, found = state.variables, dict(state.opt_state), {}
        for number, (name, player) in enumerate(players.items()):
            key = jax.random.fold_in(rng, number) if number else rng
            owner = _owner(name, player)

            def act(variables, opt_state, name=name, key=key):
                before = TrainState(state.step, variables, opt_state)
                return steps[name](before, batch, key)

            variables, opt_states[owner], found[name] = _at_times(
                player.every, state.step, act, variables, opt_states[owner]
            )
        new = TrainState(state.step + 1, variables, opt_states)
        if len(players) == 1:
            return new, found[name]
        weight = jnp.sum(batch["weight"])
        weight = weight if axis_name is None else jax.lax.psum(weight, axis_name)
        sums = {f"{name}.{k}": v for name, own in found.items() for k, v in own.items()}
        return new, {**sums, "weight": weight}

    return step


def deploy_players(state: TrainState, players: Mapping[str, Player]) -> Variables:
    """The model of a state: its parameters, those parts averaged whose player's `tx` is `averaged`.

    See `averages.deploy`.
    """
    params = state.variables["params"]
    for name, player in _owners(players).items():
        part = _part(name, player)
        params = _with(params, part, average_of(state.opt_state[name], _of(params, part)))
    return {**state.variables, "params": params}


def _sub_step(name: str, players: Mapping[str, Player], axis_name: str | None):
    """`(state of the whole, batch, rng) -> (variables, optimizer state, metrics)`."""
    player = players[name]
    owner = _owner(name, player)
    part, tx = _part(owner, players[owner]), players[owner].tx
    if player.against is not None:
        tx = _clipping(tx, player.max_norm)
    losses = (None if fn is None else _seeing_all(fn, part) for fn in (player.loss, player.against))
    loss_fn, against = losses
    one = make_step(loss_fn, tx, axis_name, against)

    def sub_step(state: TrainState, batch, rng):
        params = state.variables["params"]
        own = {**state.variables, "params": _of(params, part)}
        own = own if part == WHOLE else {**own, _ALL: params}
        after, sums = one(state._replace(variables=own), batch, rng)
        moved = _with(params, part, after.variables["params"])
        return {**after.variables, "params": moved}, after.opt_state, sums

    return sub_step


def _seeing_all(loss_fn: LossFn, part: str) -> LossFn:
    """A loss of all variables as one of the `part` of the parameters, all of them beside it."""
    if part == WHOLE:
        return loss_fn

    def own(variables, batch, rng):
        params = _with(variables[_ALL], part, variables["params"])
        rest = {name: value for name, value in variables.items() if name != _ALL}
        return loss_fn({**rest, "params": params}, batch, rng)

    return own


def _at_times(every, step: Array, act: Callable, variables, opt_state):
    """What `act` makes of both, and its metrics, in its steps; in others, both as they are."""
    if not callable(every) and every == 1:
        return act(variables, opt_state)
    now = every(step) if callable(every) else step % every == 0
    sums = jax.eval_shape(act, variables, opt_state)[2]
    none = lambda v, o: (v, o, jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), sums))
    return jax.lax.cond(now, act, none, variables, opt_state)


def _clipping(tx: optax.GradientTransformation, max_norm: float):
    """`tx` with the extra argument `against` clipped to that norm."""
    clip = optax.clip_by_global_norm(max_norm)

    def update(updates, state, params=None, *, against, **extra):
        against, _ = clip.update(against, clip.init(against))
        given = optax.with_extra_args_support(tx)
        return given.update(updates, state, params, against=against, **extra)

    return optax.GradientTransformationExtraArgs(tx.init, update)


def _owner(name: str, player: Player) -> str:
    """Who has the transformation and the optimizer state that a player moves by."""
    return player.tx if isinstance(player.tx, str) else name


def _owners(players: Mapping[str, Player]) -> dict[str, Player]:
    return {name: player for name, player in players.items() if _owner(name, player) == name}


def _part(name: str, owner: Player) -> str:
    return name if owner.part is None else owner.part


def _of(params: PyTree, part: str) -> PyTree:
    return params if part == WHOLE else params[part]


def _with(params: PyTree, part: str, value: PyTree) -> PyTree:
    return value if part == WHOLE else {**params, part: value}


def _validate(players: Mapping[str, Player]) -> None:
    if not isinstance(players, Mapping):
        raise ValueError(f"players must map names to players, got a {type(players).__name__}")
    if not players:
        raise ValueError("players must be at least one, got none")
    for name, player in players.items():
        if not isinstance(player, Player):
            raise ValueError(f"players[{name!r}] must be a Player, got a {type(player).__name__}")
    owners = [name for name, player in players.items() if not isinstance(player.tx, str)]
    for name, player in players.items():
        if isinstance(player.tx, str):
            checks.one_of(**{f"tx of players[{name!r}]": (player.tx, owners)})
            if player.part is not None:
                raise ValueError(
                    f"part of players[{name!r}] is that of {player.tx!r}, whose tx it has, got "
                    f"{player.part!r}"
                )
        if not callable(player.every):
            checks.whole(**{f"every of players[{name!r}]": player.every})
            checks.at_least(1, **{f"every of players[{name!r}]": player.every})
        checks.positive(**{f"max_norm of players[{name!r}]": player.max_norm})
