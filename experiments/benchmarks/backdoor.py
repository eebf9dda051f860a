"""Many models, many classes: one program against one after another."""

from collections.abc import Callable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
import optax

from experiments.benchmarks import ensemble, problems, timing
from unlearnjax import tasks
from unlearnjax.audit import backdoor


def run(
    models: dict[str, dict],
    num_models: int = 16,
    num_epochs: int = 3,
    search_epochs: int = 10,
    batch_size: int = 64,
    repeats: int = 3,
) -> Iterator[dict]:
    """Yields records of a population of models that is trained, and of triggers of all classes.

    Args:
      models: name -> `{'shape', 'examples', 'images'}`: training images of each model, and clean
        images that a trigger is searched on; and 'options' of the model.
      num_models: of the population.
      num_epochs: of its training.
      search_epochs: of a search.
      batch_size: of both.
      repeats: rounds.
    """
    for name, case in models.items():
        options = case.get("options", {})
        task = problems.task(name, **options)
        data, _ = problems.examples(case["examples"], case["shape"])
        everything = jnp.broadcast_to(jnp.arange(case["examples"]), (num_models, case["examples"]))
        rngs = jax.random.split(jax.random.key(0), num_models)
        training = {"num_epochs": num_epochs, "batch_size": min(batch_size, case["examples"])}
        ways = ensemble.ways(task, optax.adam(1e-3), data, everything, rngs, training)
        text = f"{num_models} x {name}, {num_epochs} epochs of {case['examples']} examples"
        yield timing.compare("population", text, ways, repeats, counts={"models": num_models})
        images = jax.nn.sigmoid(data["inputs"][: case["images"]])
        variables = task.init(jax.random.key(1), problems.part(data, slice(1)))
        search = {"num_epochs": search_epochs, "batch_size": batch_size}
        text = f"{name}, ten classes, {search_epochs} epochs of {case['images']} images"
        yield timing.compare("triggers", text, searches(task, variables, images, search), repeats)


def searches(task, variables, images, options: dict) -> dict[str, Callable]:
    """Trigger recovery of all classes: one after another in one program, at once, in turns."""

    def predictor(variables):
        def predict(pixels):
            targets = jnp.zeros(len(pixels), jnp.int32)
            outputs, _ = task.apply(variables, {"inputs": pixels, "targets": targets}, None, False)
            return tasks.logits(outputs)

        return predict

    def every(axis, variables, images):
        key = jax.random.key(2)
        return backdoor.recover_triggers(
            predictor(variables), images, 10, key, axis=axis, **options
        )

    one = jax.jit(
        lambda variables, images, label: backdoor.recover_trigger(
            predictor(variables), images, label, jax.random.key(2), **options
        )
    )
    return {
        "ours": timing.program(partial(every, "map"), variables, images),
        "ours, vmap": timing.program(partial(every, "vmap"), variables, images),
        "one at a time": lambda: [one(variables, images, label) for label in range(10)],
    }
