"""A language model small enough for every derivative: means of embeddings, one block, a head."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from unlearnjax import tasks, training
from unlearnjax.types import Request, Task, Unlearner
from unlearnjax.unlearning import parts

VOCABULARY, WIDTH, LENGTH = 7, 5, 6


def init(rng, batch):
    del batch
    shapes = {
        "table": (VOCABULARY, WIDTH),
        "block_0": {"up": (WIDTH, 4), "down": (4, WIDTH)},
        "head": (WIDTH, VOCABULARY),
    }
    leaves, treedef = jax.tree.flatten(shapes, is_leaf=lambda x: isinstance(x, tuple))
    keys = jax.random.split(rng, len(leaves))
    drawn = [jax.random.normal(k, shape) for k, shape in zip(keys, leaves, strict=True)]
    return {"params": treedef.unflatten(drawn)}


def apply(variables, batch, rng, train):
    del rng, train
    params, block = variables["params"], variables["params"]["block_0"]
    embedded = params["table"][batch["inputs"]]
    seen = jnp.cumsum(embedded, axis=1) / (1 + jnp.arange(embedded.shape[1]))[:, None]
    hidden = tasks.tap("block_0", seen + jnp.tanh(seen @ block["up"]) @ block["down"])
    logits = hidden @ params["head"]
    log_probs = jax.nn.log_softmax(logits)
    said = jnp.take_along_axis(log_probs, batch["targets"][..., None], axis=-1)[..., 0]
    return {"logits": logits, "log_probs": said}, variables


def loss(outputs, batch):
    answer = batch["answer"]
    return -(outputs["log_probs"] * answer).sum(-1) / answer.sum(-1)


def metrics(outputs, batch):
    return {"probability": jnp.exp(-loss(outputs, batch))}


def divergence(outputs, reference, batch, temperature=1.0):
    own, other = (jax.nn.log_softmax(x["logits"] / temperature) for x in (outputs, reference))
    apart = (jnp.exp(other) * (other - own)).sum(-1) * batch["answer"]
    return temperature**2 * apart.sum(-1) / batch["answer"].sum(-1)


TASK = Task(init, apply, loss, metrics, divergence=divergence)


def answers(rng, size, start=0):
    """Rows of `LENGTH`, padded on the right, of which the answer is the end."""
    tokens = rng.integers(1, VOCABULARY, size=(size, LENGTH + 1)).astype(np.int32)
    prompt = rng.integers(1, 3, size=size)
    length = prompt + rng.integers(1, LENGTH - 2, size=size)
    places = np.arange(LENGTH)
    spoken = (places >= prompt[:, None] - 1) & (places < length[:, None])
    inputs = np.where(places <= length[:, None] - 1, tokens[:, :-1], 0)
    targets = np.where(places < length[:, None], tokens[:, 1:], 0)
    columns = {"inputs": inputs, "targets": targets, "answer": spoken.astype(np.float32)}
    return {k: jnp.asarray(v) for k, v in columns.items()} | {"index": start + jnp.arange(size)}


@functools.cache
def problem(num_forget=4, num_retain=6):
    """A request whose forget set has refusals, and the variables of two models."""
    rng = np.random.default_rng(0)
    forget, retain = answers(rng, num_forget), answers(rng, num_retain, 100)
    refusal = {f"refusal.{k}": v for k, v in answers(rng, num_forget).items() if k != "index"}
    given, original = (jax.jit(init)(jax.random.key(seed), {}) for seed in (0, 1))
    return Request({**forget, **refusal}, retain, original=original), given


def padded(data, width=3):
    """The same rows with more padding, of another token."""

    def wider(name, value):
        if value.ndim < 2:
            return value
        filler = 0 if name.endswith("answer") else 5
        return jnp.pad(value, ((0, 0), (0, width)), constant_values=filler)

    return {name: wider(name, value) for name, value in data.items()}


def slope(method, request, given, task=TASK):
    """The gradient that one step of a method, built with `optax.sgd(1.0)`, descends."""

    @jax.jit
    def moved(given, request):
        updated, _ = method.update(jax.random.key(0), task, given, (), request)
        return jax.tree.map(lambda a, b: a - b, given["params"], updated["params"])

    return moved(given, request)


def whole_step(objective, tx, *, over, teachers, **options):
    """In the place of `descend`, whose loop takes a second to compile: one step on all rows."""
    assert set(options) <= {"num_steps", "batch_size", "cache_teachers"}
    names = ("forget", "retain") if over == "paired" else (over,)

    def update(rng, task, variables, memory, request):
        rows = parts.join({name: getattr(request, name) for name in names})
        frozen = {name: make(rng, task, variables, request) for name, make in teachers.items()}
        step = training.make_step(objective(task, frozen), tx)
        batch = {**rows, "weight": jnp.ones(len(rows["part"]))}
        state, _ = step(training.init_state(variables, tx), batch, rng)
        return state.variables, memory

    return Unlearner(None, update, frozenset({*names, "inputs", "labels"}))


@functools.partial(jax.jit, static_argnums=0)
def pulled(name, given, data, cotangent):
    """The gradient of `sum cotangent * output`, a given weighting of an output's entries."""

    def output(params):
        return apply({**given, "params": params}, data, None, False)[0][name]

    value, pull = jax.vjp(output, given["params"])
    return pull(jnp.asarray(cotangent, value.dtype))[0]


_outputs = jax.jit(lambda given, data: apply(given, data, None, False)[0])


def said(given, data):
    """Outputs of a model, in NumPy."""
    return {k: np.asarray(x, np.float64) for k, x in _outputs(given, data).items()}


def viewed(data, view):
    return {**data, **{k: data[f"{view}.{k}"] for k in ("inputs", "targets", "answer")}}


def nll_slope(given, data):
    """Of the mean over answers of the mean over tokens of -log p."""
    answer = np.asarray(data["answer"])
    return pulled("log_probs", given, data, -answer / answer.sum(-1, keepdims=True) / len(answer))


def kl_slope(given, original, data):
    """Of the same mean of KL(original || model), by its closed form in the logits."""
    probs = [np.exp(logits(model, data)) for model in (given, original)]
    answer = np.asarray(data["answer"], np.float64)
    share = answer / answer.sum(-1, keepdims=True) / len(answer)
    return pulled("logits", given, data, (probs[0] - probs[1]) * share[..., None])


def logits(model, data):
    """Normalised."""
    found = said(model, data)["logits"]
    return found - np.log(np.exp(found).sum(-1, keepdims=True))


def added(*trees):
    return jax.tree.map(lambda *leaves: np.sum(leaves, axis=0), *trees)


def scaled(factor, tree):
    return jax.tree.map(lambda leaf: factor * np.asarray(leaf), tree)
