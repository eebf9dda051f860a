"""Methods that know nothing of diffusion run on its tasks as they are."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.unlearning.diffusion import toy
from unlearnjax import training, unlearning
from unlearnjax.types import Request

PROCESS = toy.PROCESS._replace(shape=(2, 2, 1), prediction="v", clip=1.0)
ADAM = optax.adam(1e-2)
SHORT = {"num_epochs": 2, "batch_size": 8}
METHODS = {
    "retrain": unlearning.retrain(optax.adam(2e-2), num_epochs=100, batch_size=16),
    "finetune": unlearning.finetune(ADAM, **SHORT),
    "gradient_ascent": unlearning.gradient_ascent(ADAM, max_loss=1.0, **SHORT),
    "gradient_ascent_plus": unlearning.gradient_ascent_plus(ADAM, max_loss=1.0, beta=0.5, **SHORT),
    "ssd": unlearning.ssd(alpha=1.0),
    "scrub": unlearning.scrub(ADAM, temperature=1.0, **SHORT),
    "bad_teacher": unlearning.bad_teacher(ADAM, retain_fraction=1.0, **SHORT),
}


@pytest.fixture(scope="module")
def problem():
    """Condition 0 is bright, others are dark."""
    rng = np.random.default_rng(0)
    data = toy.images(rng, [0] * 8 + [1, 2] * 8, PROCESS)
    bright = jnp.where(data["condition"] == 0, 0.9, -0.9)[:, None, None, None]
    data = {**data, "inputs": bright + 0.1 * data["inputs"], "targets": data["condition"]}
    task = toy.network_task(PROCESS, condition_dropout=0.1)
    state, _ = jax.jit(
        lambda key: training.train(
            task, optax.adam(2e-2), data, jnp.arange(24), key, num_epochs=100, batch_size=24
        )
    )(jax.random.key(0))
    part = lambda rows: {name: value[rows] for name, value in data.items()}
    return task, state.variables, data, Request(part(slice(8)), part(slice(8, 24)))


def untrained():
    """For what looks at shapes alone."""
    data = toy.images(np.random.default_rng(0), [0] * 8 + [1, 2] * 8, PROCESS)
    data["targets"] = data["condition"]
    task = toy.network_task(PROCESS)
    variables = jax.eval_shape(lambda key: task.init(key, data), jax.random.key(0))
    variables = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), variables)
    part = lambda rows: {name: value[rows] for name, value in data.items()}
    return task, variables, data, Request(part(slice(8)), part(slice(8, 24)))


@pytest.mark.parametrize("name", METHODS)
def test_it_can_be_compiled(name):
    task, variables, data, request = untrained()
    method = unlearning.enforce(METHODS[name])

    def run(key):
        deployed, memory = method.init(key, task, variables, data)
        return method.update(key, task, deployed, memory, request)[0]

    form = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    assert form(jax.eval_shape(run, jax.random.key(1))) == form(variables)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_it_runs_and_forgets_no_less_than_it_remembers(problem, name):
    task, variables, data, request = problem
    method = unlearning.enforce(METHODS[name])

    @jax.jit
    def run(key):
        deployed, memory = method.init(key, task, variables, data)
        after, _ = method.update(key, task, deployed, memory, request)
        found = [
            training.evaluate(task, model, part)["loss"].mean()
            for model in (variables, after)
            for part in (request.forget, request.retain)
        ]
        return after, jnp.stack(found).reshape(2, 2)

    after, losses = run(jax.random.key(1))
    assert jax.tree.structure(after) == jax.tree.structure(variables)
    assert np.isfinite(losses).all()
    (forget_before, retain_before), (forget, retain) = np.asarray(losses)
    if name == "finetune":
        assert retain < retain_before
        return
    assert forget > forget_before
    assert forget - forget_before > retain - retain_before
    if name == "retrain":  # who never saw bright images is far off, and else as good
        assert forget > 4 * retain and retain < 1.2 * retain_before


def test_bounds_and_temperatures_that_do_not_fit_are_refused_by_name():
    task, variables, _, request = untrained()
    update = lambda method: jax.eval_shape(
        lambda key: method.update(key, task, variables, (), request)[0], jax.random.key(0)
    )
    with pytest.raises(ValueError, match="logits"):
        update(unlearning.gradient_ascent(ADAM))
    with pytest.raises(ValueError, match="temperature must be 1"):
        update(unlearning.scrub(ADAM))
