"""The linear heads that `continual` compares: closed-form ones and what gradients offer instead.

All see the same features. A head is asked to learn and to forget rows; `left` marks all rows that
were learned and not forgotten, of which it may use only what it says it keeps.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from unlearnjax import analytic, curvature, tasks, trees, unlearning
from unlearnjax.types import Array, Batch, Data, Request

State = Any


class Head(NamedTuple):
    """A way to learn and forget.

    Attributes:
      init: `() -> state`.
      learn, forget: `(state, batch, left) -> state`; the batch has 'inputs' `[n, D]`, 'targets' and
        'weight' (0 is padding), `left` `[N]` is 1 for the rows that are there afterwards.
      weight: `state -> [D, C]`.
      keeps: what of the past data it must keep: 'nothing', 'all rows', ...
      reference: the head that it should equal after forgetting.
    """

    init: Callable[[], State]
    learn: Callable[[State, Batch, Array], State]
    forget: Callable[[State, Batch, Array], State]
    weight: Callable[[State], Array]
    keeps: str
    reference: str


def closed_form(form: str) -> Callable[..., Head]:
    """ACU in one of its forms, float64."""

    def make(config: ConfigDict, data: Data, num_classes: int, rng: Array) -> Head:
        del rng
        width = data["inputs"].shape[1]

        def init():
            with jax.enable_x64(True):
                return analytic.init(width, num_classes, config.gamma, form=form, dtype=jnp.float64)

        def rows(batch):
            return batch["inputs"], analytic.one_hot(batch["targets"], num_classes), batch["weight"]

        def learn(state, batch, left):
            del left
            with jax.enable_x64(True):
                return analytic.learn(state, *rows(batch))

        def forget(state, batch, left):
            del left
            with jax.enable_x64(True):
                return analytic.forget(state, *rows(batch))

        weight = lambda state: state.weight.astype(jnp.float32)
        return Head(init, learn, forget, weight, "nothing", "resolve")

    return make


def resolve(config: ConfigDict, data: Data, num_classes: int, rng: Array) -> Head:
    """Ridge regression solved from scratch over all rows that are left: the exact answer."""
    del rng
    targets = analytic.one_hot(data["targets"], num_classes)

    def fit(state, batch, left):
        del state, batch
        with jax.enable_x64(True):
            features, wanted = (x.astype(jnp.float64) for x in (data["inputs"], targets))
            return analytic.solve(features, wanted, config.gamma, left)

    def init():
        with jax.enable_x64(True):
            return jnp.zeros((data["inputs"].shape[1], num_classes), jnp.float64)

    weight = lambda state: state.astype(jnp.float32)
    return Head(init, fit, fit, weight, "all rows", "resolve")


def gradient(learn: str, forget: str) -> Callable[..., Head]:
    """A softmax head that learns and forgets by gradients, each in one of `_STEPS`."""

    def make(config: ConfigDict, data: Data, num_classes: int, rng: Array) -> Head:
        task = tasks.classification(_linear(data["inputs"].shape[1], num_classes))
        tx = optax.adam(config.head.learning_rate)
        steps = {name: step(config, task, tx, data, rng) for name, step in _STEPS.items()}

        def init():
            variables = task.init(rng, data)
            return variables, jax.tree.map(jnp.zeros_like, variables["params"])

        keeps = {"retrain": "all rows", "finetune": "all rows", "ascend": "nothing"}
        return Head(
            init,
            steps[learn],
            steps[forget],
            lambda state: state[0]["params"]["kernel"],
            keeps.get(forget, "importances"),
            "retrain",
        )

    return make


def _on_all_that_is_left(method, epochs: str):
    """A step that runs an unlearner with the rows that are left as its retain set."""

    def make(config, task, tx, data, rng):
        own = method(tx, num_epochs=config.head[epochs], batch_size=config.head.batch_size)

        def step(state, batch, left):
            request = Request(None, {**data, "weight": left})
            return own.update(rng, task, state[0], (), request)[0], state[1]

        return step

    return make


def _finetune_new(config, task, tx, data, rng):
    """On the new rows alone: what there is without keeping data."""
    method = unlearning.finetune(
        tx, num_epochs=config.head.num_epochs, batch_size=config.head.batch_size
    )

    def step(state, batch, left):
        del left
        variables, _ = method.update(rng, task, state[0], (), Request(None, batch))
        return variables, _accumulated(task, variables, batch, state[1])

    return step


def _ascend(config, task, tx, data, rng):
    method = unlearning.gradient_ascent(
        optax.sgd(config.head.ascent_rate),
        num_epochs=config.head.num_epochs,
        batch_size=config.head.batch_size,
    )

    def step(state, batch, left):
        del left
        return method.update(rng, task, state[0], (), Request(batch))[0], state[1]

    return step


def _ewc(sign: float, over: str):
    """New rows (or rows to be forgotten) under a quadratic pull to the weights that matter."""

    def make(config, task, tx, data, rng):
        def step(state, batch, left):
            del left
            variables, importance = state

            def pull(params, original):
                moved = jax.tree.map(lambda p, o: (p - o) ** 2, params, original)
                return config.head.ewc / 2 * optax.tree.vdot(importance, moved)

            term = unlearning.objectives.task_loss
            if sign < 0:
                term = unlearning.objectives.bounded_loss()
            objective = unlearning.objectives.combine(**{over: [(sign, term)]}, penalty=pull)
            method = unlearning.descend(
                objective,
                tx,
                over=over,
                num_epochs=config.head.num_epochs,
                batch_size=config.head.batch_size,
            )
            request = Request(batch) if over == "forget" else Request(None, batch)
            variables, _ = method.update(rng, task, variables, (), request)
            if over == "retain":
                importance = _accumulated(task, variables, batch, importance)
            return variables, importance

        return step

    return make


def _ssd(config, task, tx, data, rng):
    def step(state, batch, left):
        del left
        variables, importance = state
        forget = curvature.fisher_diagonal(task, variables, batch)
        count = jnp.maximum(batch["weight"].sum(), 1)
        forget = jax.tree.map(lambda f: f * count, forget)
        params = unlearning.dampen(
            variables["params"],
            forget,
            importance,
            config.head.ssd_alpha,
            config.head.ssd_dampening,
        )
        return {**variables, "params": params}, importance

    return step


_STEPS = {
    "retrain": _on_all_that_is_left(unlearning.retrain, "retrain_epochs"),
    "finetune": _on_all_that_is_left(unlearning.finetune, "num_epochs"),
    "finetune_new": _finetune_new,
    "ascend": _ascend,
    "ssd": _ssd,
    "ewc": _ewc(1.0, "retain"),
    "ewc_ascend": _ewc(-1.0, "forget"),
}
# name -> `(config, data, num_classes, rng) -> Head`, for features `data['inputs']` `[N, D]`
NAMES = {
    "acu_gram": closed_form("gram"),
    "acu_inverse": closed_form("inverse"),
    "resolve": resolve,
    "retrain": gradient("retrain", "retrain"),
    "finetune": gradient("finetune", "finetune"),
    "ascent": gradient("finetune_new", "ascend"),
    "ssd": gradient("finetune_new", "ssd"),
    "ewc": gradient("ewc", "ewc_ascend"),
}


def nbytes(head: Head, state: State, data: Data, left: Array) -> float:
    """What the head holds: its state, and the rows it must keep."""
    rows = float(left.sum()) * data["inputs"][0].nbytes if head.keeps == "all rows" else 0.0
    return trees.nbytes(state) + rows


def _accumulated(task, variables, batch, importance):
    """Importances summed over all rows learned so far (sums, so that no data is needed later)."""
    fisher = curvature.fisher_diagonal(task, variables, batch)
    count = batch["weight"].sum()
    return jax.tree.map(lambda i, f: i + count * f, importance, fisher)


def _linear(width: int, num_classes: int) -> tasks.Model:
    def init(rng, batch):
        del rng, batch
        return {"params": {"kernel": jnp.zeros((width, num_classes))}}

    def apply(variables, batch, rng, train):
        del rng, train
        return {"logits": batch["inputs"] @ variables["params"]["kernel"]}, variables

    return tasks.Model(init, apply)
