"""A trigger of each image's own: networks that draw it, trained with the classifier they attack.

Nguyen and Tran, "Input-Aware Dynamic Backdoor Attack", NeurIPS 2020 (arXiv 2010.08138).
"""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from unlearnjax import checks, tasks, training
from unlearnjax.data import pixels, triggers
from unlearnjax.data.attacks import TargetRule
from unlearnjax.data.pixels import PixelScale
from unlearnjax.training.fit import Recipe
from unlearnjax.training.step import LossFn
from unlearnjax.types import Array, Batch, Data, Task, Variables

_EPSILON = 1e-7


class InputAware(NamedTuple):
    """What the attack makes.

    Attributes:
      variables: of the classifier, with the backdoor.
      networks: variables of the two networks, 'pattern' and 'mask'.
      trigger: of pixels, with the networks in evaluation mode.
      history: of the classifier's training by epoch: `loss`, `diversity`, and the shares of
        `clean`, `attack` and `cross` images that are called as they are to be.
    """

    variables: Variables
    networks: Mapping[str, Variables]
    trigger: triggers.Trigger
    history: Mapping[str, Array]


def input_aware(
    task: Task,
    pattern: nn.Module,
    mask: nn.Module,
    target_rule: TargetRule,
    tx: optax.GradientTransformation,
    *,
    num_epochs: int,
    batch_size: int = 128,
    scale: PixelScale | None = None,
    generator_tx: optax.GradientTransformation | None = None,
    mask_tx: optax.GradientTransformation | None = None,
    mask_epochs: int = 25,
    share: float = 0.1,
    density: float = 0.032,
    diversity: float = 1.0,
    sparsity: float = 100.0,
) -> Callable[[Array, Data], InputAware]:
    """Trains a classifier and the networks that draw its trigger, `(rng, data) -> InputAware`.

    With G(x) the pattern and M(x) the mask of image x, its trigger is `x + (G(x) - x) M(x)`. First
    M is trained by `mask_loss`, then, with M frozen, G and the classifier at once by `attack_loss`.

    As published, images of the target class are attacked, too, and distances of images are of the
    standardised ones. Differences: x' is the next image of the shuffled batch, not of a second
    shuffle; the published code never clears the gradients of G, which add up over all steps, and
    here each step has its own; what the task draws, such as a crop, is of images that have their
    trigger. Cost: of a step, one of the classifier and two of G on a share.

    Args:
      task: a classifier of the inputs that `data` has once they are standardised.
      pattern, mask: modules of standardised inputs that are called as `module(inputs, train=...)`
        and give `[B, H, W, C]` and `[B, H, W, 1]` in [-1, 1], by a tanh at their end.
      target_rule: see `data.attacks`.
      tx: of the classifier; published: SGD of 0.01, momentum 0.9, weight decay 5e-4.
      num_epochs, batch_size: of the classifier's training; published: 600 and 128.
      scale: of the standardised inputs; `None` where the task learns from pixels.
      generator_tx, mask_tx: of the networks; default: Adam of 0.01 with b1 0.5 and b2 0.9.
      mask_epochs: of the mask's training.
      share: of a batch that is attacked, and of it that has another's trigger, in (0, 1/2].
      density: share of the pixels that the mask may cover for nothing.
      diversity, sparsity: weights of the terms.

    Returns:
      `fit(rng, data)`, where `data` has pixels in [0, 1] as `inputs`.

    Raises:
      ValueError: for a value out of range; by `fit` for inputs that are no images.
    """
    checks.whole(num_epochs=num_epochs, batch_size=batch_size, mask_epochs=mask_epochs)
    checks.at_least(1, num_epochs=num_epochs, mask_epochs=mask_epochs)
    checks.positive(share=share)
    checks.within(0, 0.5, share=share)
    checks.share(density=density)
    checks.at_least(0, diversity=diversity, sparsity=sparsity)
    attacked = int(share * batch_size)
    if attacked < 1:
        raise ValueError(f"share * batch_size must be >= 1, got {share} * {batch_size}")
    draw, cover = tasks.from_linen(pattern), tasks.from_linen(mask)
    published = optax.adam(0.01, b1=0.5, b2=0.9)
    movers = {
        "classifier": tx,
        "pattern": published if generator_tx is None else generator_tx,
        "mask": published if mask_tx is None else mask_tx,
    }
    terms = {"scale": scale, "diversity": diversity}
    first = mask_loss(cover, density=density, sparsity=sparsity, **terms)
    second = functools.partial(attack_loss, task, draw, cover, attacked=attacked, **terms)

    def fit(rng: Array, data: Data) -> InputAware:
        images, targets = np.asarray(data["inputs"]), np.asarray(data["targets"])
        if images.ndim != 4 or not (images.min() >= -1e-4 and images.max() <= 1 + 1e-4):
            raise ValueError(
                f"inputs must be pixels [N, H, W, C] in [0, 1], got {images.shape} from "
                f"{images.min()} to {images.max()}"
            )
        keys = jax.random.split(rng, 5)
        wanted = target_rule.wanted(targets)
        columns = {"inputs": images, "targets": targets, "wanted": wanted}
        columns["index"] = np.asarray(data.get("index", np.arange(len(targets), dtype=np.int32)))
        rows = jnp.arange(len(targets))
        example = {"inputs": _standard(jnp.asarray(images[:1]), scale), "targets": targets[:1]}

        def run(start, loss_fn, tx, key, epochs):
            step = training.make_step(loss_fn, tx)
            begin = lambda data, rng, given: training.init_state(start, tx)
            whole = jax.jit(
                lambda columns, key: training.fit(
                    Recipe(begin, step),
                    columns,
                    rows,
                    key,
                    num_epochs=epochs,
                    batch_size=batch_size,
                )
            )
            return whole(columns, key)

        frozen, _ = run(cover.init(keys[0], example), first, movers["mask"], keys[1], mask_epochs)
        models = {"classifier": task.init(keys[2], example), "pattern": draw.init(keys[3], example)}
        start = {
            "params": {name: own["params"] for name, own in models.items()},
            "networks": {name: _rest(own) for name, own in models.items()},
        }
        both = optax.multi_transform(
            {name: movers[name] for name in models}, {name: name for name in models}
        )
        after, history = run(start, second(frozen), both, keys[4], num_epochs)
        made = {
            name: {**after["networks"][name], "params": after["params"][name]} for name in models
        }

        def apply(images: Array) -> tuple[Array, Array]:
            batch = {"inputs": _standard(images, scale)}
            raw = [
                net.apply(own, batch, None, False)[0]["logits"]
                for net, own in ((draw, made["pattern"]), (cover, frozen))
            ]
            return raw[0] / 2 + 0.5, _threshold(raw[1])

        networks = {"pattern": made["pattern"], "mask": frozen}
        return InputAware(made["classifier"], networks, triggers.generated(apply), history)

    return fit


def mask_loss(
    mask: tasks.Model,
    *,
    scale: PixelScale | None = None,
    density: float = 0.032,
    diversity: float = 1.0,
    sparsity: float = 100.0,
) -> LossFn:
    """`sparsity * mean(relu(M(x) - density)) + diversity * |x - x'| / |M(x) - M(x')|`, per example.

    `M(x) = sigmoid(40 m(x) - 20)` of what the network says in [0, 1], x' is the next image of the
    batch, the first one after the last, and |.| the root of the mean square, of standardised
    images. See `input_aware`.
    """

    def loss_fn(variables: Variables, batch: Batch, rng: Array):
        images = _standard(batch["inputs"], scale)
        outputs, updated = mask.apply(variables, {"inputs": images}, rng, True)
        masks = _threshold(outputs["logits"])
        spread = _spread(images, _next(images), masks, _next(masks))
        dense = jax.nn.relu(masks - density).mean((1, 2, 3))
        loss = sparsity * dense + diversity * spread
        return loss, ({"loss": loss, "density": masks.mean((1, 2, 3))}, updated)

    return loss_fn


def attack_loss(
    task: Task,
    pattern: tasks.Model,
    mask: tasks.Model,
    frozen: Variables,
    *,
    attacked: int,
    scale: PixelScale | None = None,
    diversity: float = 1.0,
) -> LossFn:
    """Cross-entropy of a batch that is in part attacked, and how alike the patterns are.

    The first images of the batch have their triggers and the label `wanted`; as many after them
    have that of the image next to them and keep their label; the rest is clean. To the classifier's
    loss is added, as a mean over the attacked, `diversity * |x - x'| / |G(x) - G(x')|` of x
    attacked and x' the images whose triggers the others have. See `input_aware`.

    Args:
      task: the classifier.
      pattern, mask: the networks.
      frozen: variables of the mask's, which is in evaluation mode.
      attacked: how many of a batch.
      scale, diversity: see `input_aware`.

    Returns:
      A loss of variables whose 'params' are of 'classifier' and 'pattern'; their other collections
      are under 'networks'.
    """

    def loss_fn(variables: Variables, batch: Batch, rng: Array):
        images, weight, keys = batch["inputs"], batch["weight"], jax.random.split(rng)
        models = {
            name: {**rest, "params": variables["params"][name]}
            for name, rest in variables["networks"].items()
        }
        crossed = slice(attacked, 2 * attacked)
        sources = jnp.concatenate([images[:attacked], _next(images)[crossed]])
        seen = {"inputs": _standard(sources, scale)}
        drawn, drawer = pattern.apply(models["pattern"], seen, keys[0], True)
        patterns = drawn["logits"] / 2 + 0.5
        masks = _threshold(mask.apply(frozen, seen, None, False)[0]["logits"])
        base = images[: 2 * attacked]
        mixed = jnp.concatenate([base + (patterns - base) * masks, images[2 * attacked :]])
        place = jnp.arange(len(images))
        groups = {
            "attack": place < attacked,
            "cross": (place >= attacked) & (place < 2 * attacked),
            "clean": place >= 2 * attacked,
        }
        targets = jnp.where(groups["attack"], batch["wanted"], batch["targets"])
        told = {**batch, "inputs": _standard(mixed, scale), "targets": targets}
        told = tasks.drawn(task, told, True)
        outputs, learner = task.apply(models["classifier"], told, keys[1], True)
        losses, right = task.loss(outputs, told), task.metrics(outputs, told)["accuracy"]

        def over(group: Array, values: Array) -> Array:
            """Values whose mean over the batch is theirs over a group."""
            chosen = jnp.where(group, weight, 0).sum()
            return jnp.where(group, values, 0) * weight.sum() / jnp.maximum(chosen, 1)

        alike = _spread(*jnp.split(seen["inputs"], 2), *jnp.split(_standard(patterns, scale), 2))
        spread = over(groups["attack"], jnp.zeros_like(losses).at[:attacked].set(alike))
        metrics = {name: over(group, right) for name, group in groups.items()}
        made = {"classifier": learner, "pattern": drawer}
        updated = {**variables, "networks": {name: _rest(own) for name, own in made.items()}}
        return losses + diversity * spread, (
            {"loss": losses, "diversity": spread, **metrics},
            updated,
        )

    return loss_fn


def _standard(images: Array, scale: PixelScale | None) -> Array:
    return images if scale is None else pixels.to_inputs(images, scale)


def _next(x: Array) -> Array:
    return jnp.roll(x, -1, 0)


def _rest(variables: Variables) -> dict:
    return {name: value for name, value in variables.items() if name != "params"}


def _threshold(raw: Array) -> Array:
    """Numbers in [-1, 1] as a mask of nearly 0 and 1."""
    return jax.nn.sigmoid(40 * (raw / 2 + 0.5) - 20)


def _spread(one: Array, two: Array, drawn: Array, other: Array) -> Array:
    """`[B]`: how far images are apart for what is drawn for them."""
    return _distance(one, two) / (_distance(drawn, other) + _EPSILON)


def _distance(one: Array, two: Array) -> Array:
    """`[B]`: root of the mean square; without a gradient where both are the same."""
    square = ((one - two) ** 2).mean((1, 2, 3))
    same = square == 0
    return jnp.where(same, 0, jnp.sqrt(jnp.where(same, 1, square)))
