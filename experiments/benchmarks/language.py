"""Language: a training step, greedy answers, NPO, LoRA, and oracles trained together.

Against `transformers` in PyTorch with the same weights, against decoding without a cache, a
reference model that is held in memory, a step on all parameters, and one model after another.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.benchmarks import ensemble, problems, timing, torch_language
from experiments.benchmarks.adapters import kept
from unlearnjax import models, tasks, training
from unlearnjax.training import ensembles
from unlearnjax.types import Task, Variables
from unlearnjax.unlearning import objectives
from unlearnjax.unlearning.language import preference

RATE, BETA, ORACLE_EPOCHS = 1e-3, 0.1, 2


class Problem(NamedTuple):
    """A fresh decoder, and random text of which the second half is the answer."""

    config: models.DecoderConfig
    model: tasks.Model
    task: Task
    data: dict[str, jax.Array]
    variables: Variables


def run(
    cases: Mapping[str, Mapping[str, Any]],
    answers: int = 0,
    num_tokens: int = 64,
    unlearn: bool = True,
    rank: int = 8,
    oracles: int = 0,
    repeats: int = 3,
):
    """Yields for each case a training step, and what else is asked for.

    Args:
      cases: name -> `{'config', 'batch', 'length'}`: fields of `models.DecoderConfig`, answers and
        tokens of a step.
      answers: to be decoded, of prompts of half the length; 0 leaves it out.
      num_tokens: of each of these.
      unlearn: whether steps of NPO and of LoRA are measured.
      rank: of LoRA.
      oracles: trained together, two epochs of two batches each; 0 leaves it out.
    """
    for name, case in cases.items():
        made = problem(case)
        size, batch = sum(x.size for x in jax.tree.leaves(made.variables)), case["batch"]
        text = f"{size / 1e6:.1f} M, {name}, batch of {batch} x {case['length']}"
        calls = {"ours": step(made.task, made.variables, part(made, batch))}
        if torch_language.available():
            net = torch_language.network(made.config, made.variables["params"])
            calls["torch"] = torch_language.training_step(net, part(made, batch), RATE)
        counts = {"tokens": batch * case["length"]}
        yield timing.compare("language_step", text, calls, repeats, counts=counts)
        if unlearn:
            yield preferring(made, text, batch, repeats)
            yield adapting(made, text, batch, rank, repeats)
        if answers:
            text = f"{answers} answers of {num_tokens} tokens, {size / 1e6:.1f} M, {name}"
            calls = decoding(made, answers, case["length"] // 2, num_tokens)
            counts = {"tokens": answers * num_tokens}
            yield timing.compare("decode", text, calls, repeats, counts=counts)
        if oracles:
            text = f"{oracles} x {name}, {ORACLE_EPOCHS} epochs of {2 * batch} answers"
            calls = together(made, oracles, batch)
            yield timing.compare("language_oracles", text, calls, repeats, models=oracles)


def problem(case: Mapping[str, Any]) -> Problem:
    """The decoder of a case, and text for four batches."""
    config = models.DecoderConfig(**case["config"])
    model = tasks.from_linen(models.Decoder(config))
    task = tasks.language_modelling(model, over="all")
    number, length = 4 * case["batch"], case["length"]
    tokens = jax.random.randint(jax.random.key(0), (number, length + 1), 0, config.vocab_size)
    data = {
        "inputs": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "answer": jnp.broadcast_to((jnp.arange(length) >= length // 2) * 1.0, (number, length)),
        "index": jnp.arange(number),
    }
    variables = jax.jit(task.init)(jax.random.key(1), problems.part(data, slice(1)))
    return Problem(config, model, task, data, variables)


def part(made: Problem, batch_size: int) -> dict[str, jax.Array]:
    """A batch."""
    return {**problems.part(made.data, slice(batch_size)), "weight": jnp.ones(batch_size)}


def step(task: Task, variables: Variables, batch: Mapping[str, jax.Array]) -> timing.Program:
    """One step of Adam, compiled."""
    tx = optax.adam(RATE)
    state = training.init_state(variables, tx)
    one = training.make_step(training.supervised(task), tx)
    return timing.program(one, state, batch, jax.random.key(0))


def decoding(made: Problem, answers: int, length: int, num_tokens: int) -> dict:
    """Greedy answers that end with their number, with the cache and without."""
    task = tasks.language_modelling(made.model, max_new_tokens=num_tokens)
    rows = jnp.arange(answers) % len(made.data["index"])
    prompts = made.data["inputs"][rows, :length]
    batch = {"condition": prompts, "condition_length": jnp.full(answers, length)}

    def answer(task):
        run = lambda v, batch: tasks.generate(task, v, jax.random.key(0), batch)["tokens"]
        return timing.program(run, made.variables, batch)

    calls = {"ours": answer(task), "without a cache": answer(forgetful(task))}
    if torch_language.available():
        net = torch_language.network(made.config, made.variables["params"])
        calls["torch"] = torch_language.greedy(net, prompts, num_tokens)
    return calls


def forgetful(task: Task) -> Task:
    """The task, whose model returns no cache."""

    def apply(variables, batch, rng, train):
        outputs, updated = task.apply(variables, batch, rng, train)
        return {"logits": outputs["logits"]}, updated

    return task._replace(apply=apply)


def preferring(made: Problem, text: str, batch_size: int, repeats: int) -> dict[str, Any]:
    """The record of a step of NPO on a batch of the forget set, with its share of memory.

    Of all parameters under Adam, a reference model is one copy beside four (with gradients and
    moments) and one forward pass beside what costs three: at best 0.8 of the memory and 0.75 of the
    time are left without it. Logits of small models hide the former.
    """
    task = tasks.language_modelling(made.model)
    objective = objectives.combine(forget=[(1.0, preference.negative_preference(BETA))])
    tx = optax.adam(RATE)
    batch = {**part(made, batch_size), "part": jnp.zeros(batch_size, jnp.int32)}
    state = training.init_state(made.variables, tx)
    reference = jax.tree.map(jnp.copy, made.variables)

    def one(state, batch, frozen):
        loss_fn = objective(task, {"original": frozen})
        return training.make_step(loss_fn, tx)(state, batch, jax.random.key(0))

    outputs, _ = jax.jit(lambda v, b: task.apply(v, b, None, False))(reference, batch)
    known = {**batch, "original.log_probs": outputs["log_probs"]}
    calls = {
        "cached": timing.program(one, state, known, {}),
        "reference model": timing.program(one, state, batch, reference),
    }
    record = timing.compare("npo", f"step, {text}", calls, repeats)
    peak = record["peak_bytes"]
    return record | {"memory_share": {"cached": round(peak["cached"] / peak["reference model"], 3)}}


def adapting(made: Problem, text: str, batch_size: int, rank: int, repeats: int) -> dict[str, Any]:
    """The record of a step of LoRA on all products of the blocks, with what it keeps."""
    changes = tasks.lora(made.task, rank, ["*.attention", "*.mlp"])
    fresh = changes.init(jax.random.key(2), made.data)
    low = {**fresh, **tasks.as_base(made.variables)}
    batch = part(made, batch_size)
    whole = step(made.task, made.variables, batch)
    calls = {f"lora, rank {rank}": step(changes, low, batch), "whole model": whole}
    record = timing.compare("language_lora", f"step, {text}", calls, repeats)
    share = kept(low) / kept(made.variables)
    return record | {"kept_share": {f"lora, rank {rank}": round(share, 4)}}


def together(made: Problem, count: int, batch_size: int) -> dict:
    """As many models, each on its half of the text, together and in turns."""
    subsets = ensembles.random_subsets(jax.random.key(3), count, len(made.data["index"]))
    rngs = jax.random.split(jax.random.key(4), count)
    options = {"num_epochs": ORACLE_EPOCHS, "batch_size": batch_size}
    return ensemble.ways(made.task, optax.adam(RATE), made.data, subsets, rngs, options)
