"""What every audit takes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmarks import problems, timing
from unlearnjax import audit, training


def run(num_examples: int = 1000, num_models: int = 100, repeats: int = 3):
    """Yields a record per audit: of one model on a set, or of populations of models on it."""
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.normal(size=shape)
    scores, other = np.abs(normal(num_examples)), np.abs(normal(num_examples))
    margins = normal(num_models, num_examples), normal(num_models, num_examples) + 0.1
    sure = rng.uniform(size=(2 * num_models + 2, num_examples))
    probs, oracle_probs = (rng.dirichlet(np.ones(10), num_examples) for _ in range(2))
    calls = {
        "accuracy and losses": _evaluate(num_examples),
        "relearn time": _relearn(num_examples),
        "membership inference": partial(audit.membership_inference, scores, other),
        "membership efficacy": partial(audit.membership_efficacy, scores, other, scores),
        "activation distance": partial(audit.activation_distance, probs, oracle_probs),
        "Jensen-Shannon": partial(audit.jensen_shannon, probs, oracle_probs),
        "zero-retrain forgetting": partial(audit.zero_retrain_forgetting, probs, oracle_probs),
    }
    of_populations = {
        "KLoM": partial(audit.klom, *margins),
        "U-LIRA": partial(audit.u_lira, *margins),
        "RMIA": partial(
            audit.rmia, sure[0], sure[1], sure[2 : 2 + num_models], sure[2 + num_models :]
        ),
        "forgetting quality": partial(audit.example_epsilons, *margins),
    }
    for name, call in calls.items():
        case = f"{name}, {num_examples} examples"
        yield timing.compare("audit", case, {"ours": call}, repeats, examples=num_examples)
    for name, call in of_populations.items():
        case = f"{name}, {num_examples} examples, {num_models} models"
        yield timing.compare("audit", case, {"ours": call}, repeats, examples=num_examples)


def _model(num_examples: int):
    data, task = problems.images(num_examples), problems.task("convnet")
    return data, task, task.init(jax.random.key(0), problems.part(data, slice(1)))


def _evaluate(num_examples: int) -> timing.Program:
    data, task, variables = _model(num_examples)
    return timing.program(partial(training.evaluate, task), variables, data)


def _relearn(num_examples: int) -> timing.Program:
    """Of a tenth of the examples, ten steps."""
    data, task, variables = _model(num_examples // 10)

    def steps(variables, data, rng):
        target = jnp.float32(-1.0)  # never reached
        return audit.relearn_time(task, variables, data, target, optax.sgd(1e-3), rng, max_steps=10)

    return timing.program(steps, variables, data, jax.random.key(0))
