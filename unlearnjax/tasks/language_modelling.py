"""Language modelling: a decoder, the likelihood of answers, and what it says by itself."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from unlearnjax import checks
from unlearnjax import language as language_lib
from unlearnjax.models import decoder
from unlearnjax.tasks import draws
from unlearnjax.tasks.adapters import Model, columns
from unlearnjax.tasks.adapters import logits as logits_of
from unlearnjax.types import Array, Batch, Outputs, Task, Variables

OVER = ("answer", "all")


def language_modelling(
    model: Model,
    *,
    over: str = "answer",
    chunk: int | None = None,
    max_new_tokens: int = 64,
    eos: int | Sequence[int] | None = None,
    temperature: float = 0.0,
) -> Task:
    """A Task whose loss is the mean negative log-likelihood of an answer's tokens.

    Columns, padded on the right: `inputs` `[B, T]` tokens, `targets` `[B, T]` the next ones,
    `answer` `[B, T]`, 1 where the target is a token of the answer or the one that ends it. For
    generation `condition` `[B, P]`, prompts, and `condition_length` `[B]`.

    Outputs: 'log_probs' `[B, T]` of the targets, 'logits' `[B, T, V]`, 'hidden' `[B, T, D]`,
    'features' `[B, D]`, the mean of these over the answer; and of each target, without gradients,
    'margins' `[B, T]`, its log-odds, and 'correct' `[B, T]`, whether it is the likeliest token.

    Loss: a mean over tokens, so that every answer weighs alike. Where reference trainers average
    over all tokens of a batch, long answers weigh more; `weight` proportional to `answer.sum(-1)`
    reproduces that.

    Metrics, all over the answer, whatever `over` is: `accuracy`, the share of targets that are the
    likeliest token after the true ones (exact memorisation; the end of the answer counts, in
    open-unlearning's code it does not); `probability`, the geometric mean of the targets';
    `log_likelihood`, their sum; `margin`, the mean of the log-odds; `extraction`: `1 - k / L`,
    where after the first k of L tokens all others are the likeliest (extraction strength). Tokens
    in `eos` are not among the L, so that an answer cut to fit loses none; 0 where none is left, and
    where the last is wrong (1 / L in the public code). A perfect unlearner has the oracle's.

    Divergence: `T^2 KL(reference || outputs)` of the next token, the mean over the answer.

    Generation: 'tokens' `[B, max_new_tokens]` and 'length' `[B]`, see `language.decode`; draws of
    an example follow from the rng and its `index` (its place, where it has none). The model's
    `apply` is called with a batch's own columns and `inputs`, `positions`, `last` and `cache.*`.

    Args:
      model: `from_linen(models.Decoder(...))`, or any pair with the output 'logits' `[B, T, V]`,
        and 'hidden' `[B, T, D]` for features.
      over: the tokens that the loss is of: 'answer', or 'all' up to the answer's last one, what
        comes behind being padding. From scratch one trains on all tokens.
      chunk: how many positions have their logits in memory at once, computed again for gradients.
        Outputs are then without 'logits', and what compares predictions (divergence, uniform
        targets) refuses them. The model must return 'hidden' and 'head'.
      max_new_tokens: of generation.
      eos: the token that ends an answer, or several.
      temperature: of generation, 0 takes the likeliest token.

    References:
      Carlini et al., "Extracting Training Data from Large Language Models", USENIX Security 2021;
      the same, "Quantifying Memorization Across Neural Language Models", ICLR 2023; Wang et al.,
      "Towards Effective Evaluations and Comparisons for LLM Unlearning Methods", ICLR 2025 (arXiv
      2406.09179).

    Examples:
      >>> from unlearnjax import models, tasks
      >>> small = models.DecoderConfig(vocab_size=7, width=8, depth=1, num_heads=2, mlp_width=8)
      >>> task = tasks.language_modelling(tasks.from_linen(models.Decoder(small)))
      >>> tokens = jnp.array([[1, 2, 3, 4]])
      >>> batch = {"inputs": tokens[:, :-1], "targets": tokens[:, 1:], "answer": jnp.ones((1, 3))}
      >>> variables = task.init(jax.random.key(0), batch)
      >>> outputs, _ = task.apply(variables, batch, None, False)
      >>> outputs["logits"].shape, task.loss(outputs, batch).shape
      ((1, 3, 7), (1,))
    """
    checks.one_of(over=(over, OVER))
    for name, value in {"chunk": 1 if chunk is None else chunk, "eos": eos}.items():
        for number in np.atleast_1d(value) if value is not None else ():
            checks.whole(**{name: number})
    checks.whole(max_new_tokens=max_new_tokens)
    checks.at_least(1, max_new_tokens=max_new_tokens, chunk=1 if chunk is None else chunk)
    checks.at_least(0, temperature=temperature)
    checks.finite(temperature=temperature)

    def apply(variables: Variables, batch: Batch, rng: Array | None, train: bool):
        outputs, updated = model.apply(variables, batch, rng, train)
        if "last" in batch:
            cache = {k: v for k, v in outputs.items() if k.startswith(language_lib.CACHE)}
            return {"logits": _next(outputs, batch["last"]), **cache}, updated
        found = {k: v for k, v in outputs.items() if k != "head"}
        if chunk is not None:
            found.pop("logits", None)
        if "targets" in batch:
            found |= _of_targets(outputs, batch["targets"], chunk)
        if "hidden" in outputs and "answer" in batch:
            found["features"] = over_answer(outputs["hidden"], batch)
        return found, updated

    def counted(batch: Batch) -> Array:
        answer = _answer(batch)
        if over == "answer":
            return answer
        return jnp.flip(jax.lax.cummax(jnp.flip(answer > 0, -1).astype(answer.dtype), axis=1), -1)

    def loss(outputs: Outputs, batch: Batch) -> Array:
        (log_probs,) = columns(outputs, ("log_probs",))
        return -_mean(log_probs, counted(batch))

    def metrics(outputs: Outputs, batch: Batch) -> dict[str, Array]:
        answer, (targets,) = _answer(batch), columns(batch, ("targets",))
        log_probs, margins, correct = columns(outputs, ("log_probs", "margins", "correct"))
        return {
            "accuracy": _mean(correct, answer),
            "probability": jnp.exp(_mean(log_probs, answer)),
            "log_likelihood": _sum(log_probs, answer),
            "margin": _mean(margins, answer),
            "extraction": _extraction(correct, answer * ~jnp.isin(targets, np.atleast_1d(ends))),
        }

    def divergence(outputs: Outputs, reference: Outputs, batch: Batch, temperature: float = 1.0):
        student, teacher = (
            jax.nn.log_softmax(logits_of(x) / temperature) for x in (outputs, reference)
        )
        kl = jnp.sum(jnp.exp(teacher) * (teacher - student), axis=-1)
        return temperature**2 * over_answer(kl, batch)

    def generate(task: Task, variables: Variables, rng: Array, batch: Batch) -> Outputs:
        prompts, lengths = columns(batch, ("condition", "condition_length"))
        keys = None
        if temperature > 0:
            index = batch.get("index", jnp.arange(prompts.shape[0]))
            keys = draws.keyed({"index": index}, rng)["key"]
        step = lambda seen: task.apply(variables, {**batch, **seen}, None, False)[0]
        options = {"eos": eos, "temperature": temperature, "keys": keys}
        return language_lib.decode(step, prompts, lengths, max_new_tokens, **options)

    ends = [] if eos is None else eos
    return Task(model.init, apply, loss, metrics, divergence=divergence, generate=generate)


def over_answer(values: Array, batch: Batch) -> Array:
    """`[B, ...]`: the mean of `values` `[B, T, ...]` over each example's answer.

    Where there is one value for each example, `[B]`, it is itself.

    Raises:
      ValueError: for values of tokens, if the batch has no `answer`.
    """
    if values.ndim == 1:
        return values
    answer = _answer(batch)
    if values.shape[:2] != answer.shape:
        raise ValueError(
            f"values must be of each token, {list(answer.shape)} as answer, got "
            f"{list(values.shape)}"
        )
    values = values.astype(jnp.promote_types(values.dtype, jnp.float32))
    return _mean(values, answer.reshape(*answer.shape, *[1] * (values.ndim - 2)))


def _answer(batch: Batch) -> Array:
    """`[B, T]`, in a type in which it can be summed: narrow ones wrap or round."""
    (answer,) = columns(batch, ("answer",))
    return answer.astype(jnp.promote_types(answer.dtype, jnp.float32))


def _mean(values: Array, mask: Array) -> Array:
    """Over axis 1; 0 for padding, which has nothing there."""
    return _sum(values, mask) / jnp.maximum(mask.sum(axis=1), 1)


def _sum(values: Array, mask: Array) -> Array:
    """Over axis 1, of values that may be infinite where the mask is 0."""
    return jnp.sum(jnp.where(mask > 0, values, 0) * mask, axis=1)


def _next(outputs: Outputs, last: Array) -> Array:
    """`[B, V]`, the logits of what comes after position `last` `[B]` of the inputs."""
    at = lambda x: jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0]
    if "head" in outputs:
        return decoder.logits(at(outputs["hidden"]), outputs["head"])
    return at(logits_of(outputs))


def _of_targets(outputs: Outputs, targets: Array, chunk: int | None) -> Outputs:
    if chunk is None:
        return _scores(logits_of(outputs), targets)
    hidden, head = columns(outputs, ("hidden", "head"))
    rows, length = targets.shape
    number = -(-length // chunk)

    def split(x: Array) -> Array:
        x = jnp.pad(x, [(0, 0), (0, number * chunk - length), *[(0, 0)] * (x.ndim - 2)])
        return x.reshape(rows, number, chunk, *x.shape[2:]).swapaxes(0, 1)

    @jax.checkpoint
    def one(given):
        return _scores(decoder.logits(given[0], head), given[1])

    found = jax.lax.map(one, (split(hidden), split(targets)))
    return {k: v.swapaxes(0, 1).reshape(rows, -1)[:, :length] for k, v in found.items()}


def _scores(logits: Array, targets: Array) -> Outputs:
    """What a model says of targets `[B, T]`, by its logits `[B, T, V]`."""
    if logits.shape[:-1] != targets.shape:
        raise ValueError(
            f"targets must be {list(logits.shape[:-1])}, a next token of each, got "
            f"{list(targets.shape)}"
        )
    place, target = jnp.arange(logits.shape[-1]), targets[..., None]
    chosen = jnp.take_along_axis(logits, target, axis=-1)
    # Without gradients, so that nobody pays for derivatives of what is only looked at.
    still, own = jax.lax.stop_gradient((logits, chosen))
    others = jax.nn.logsumexp(still, axis=-1, where=place != target)
    # As by argmax, which takes the first of several.
    ahead = jnp.where(place < target, still >= own, still > own).any(-1)
    return {
        "log_probs": chosen[..., 0] - jax.nn.logsumexp(logits, axis=-1),
        "margins": own[..., 0] - others,
        "correct": (~ahead).astype(logits.dtype),
    }


def _extraction(correct: Array, counted: Array) -> Array:
    """1 less the share of the counted tokens up to the last one that is wrong; 0 where none is."""
    place, size = jnp.cumsum(counted, axis=-1), counted.sum(-1)
    prefix = jnp.max(place * counted * (1 - correct), axis=-1)
    return jnp.where(size > 0, 1 - prefix / jnp.maximum(size, 1), 0)
