import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from experiments.benchmarks import language, torch_language
from tests import frameworks
from unlearnjax import tasks, training

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_compiler")]
CASE = {
    "config": {"vocab_size": 13, "width": 16, "depth": 2, "num_heads": 2, "mlp_width": 20},
    "batch": 3,
    "length": 8,
}


@pytest.fixture(scope="module")
def made():
    fresh = language.problem(CASE)
    return fresh._replace(variables={"params": frameworks.shaken(fresh.variables["params"])})


def test_the_reference_loses_and_learns_as_ours(made):
    batch = language.part(made, 3)
    call = torch_language.training_step(
        torch_language.network(made.config, made.variables["params"]), batch, 1e-2
    )
    tx = optax.adam(1e-2)
    state, one = training.init_state(made.variables, tx), training.supervised(made.task)
    ours = jax.jit(training.make_step(one, tx))
    for _ in range(3):
        state, sums = ours(state, batch, jax.random.key(0))
        np.testing.assert_allclose(float(call()), sums["loss"] / sums["weight"], rtol=1e-4)


def test_the_reference_answers_as_ours(made):
    task = tasks.language_modelling(made.model, max_new_tokens=5)
    net = torch_language.network(made.config, made.variables["params"])
    net.generation_config.eos_token_id = None
    prompts = made.data["inputs"][:, :4]
    batch = {"condition": prompts, "condition_length": jnp.full(len(prompts), 4)}
    found = tasks.generate(task, made.variables, jax.random.key(0), batch)["tokens"]
    np.testing.assert_array_equal(torch_language.greedy(net, prompts, 5)().numpy(), found)
