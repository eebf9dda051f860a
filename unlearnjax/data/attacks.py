"""Poisoned training sets: which images or sentences get a trigger, and what they are labelled.

Images are pixels `[N, H, W, C]` in [0, 1] (for standardised inputs see `pixels`), sentences tokens
`[N, T]` with the triggers of `text_attacks`. All on the host: data is poisoned once, before
anything is compiled.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from unlearnjax import checks
from unlearnjax.data import pixels, text_attacks, triggers
from unlearnjax.data.dataset import Dataset
from unlearnjax.data.text_attacks import TextTrigger
from unlearnjax.data.triggers import Trigger
from unlearnjax.types import Array


class TargetRule(NamedTuple):
    """Which images an attack poisons and what it makes a model say; all of `targets` `[N]`.

    Attributes:
      eligible: `[N]` bool, the training images that may be poisoned.
      labelled: `[N]`, what they are labelled then.
      victims: `[N]` bool, the images of which the success of the attack is counted.
      wanted: `[N]`, what a model with the backdoor says of them where they have the trigger.
    """

    eligible: Callable[[np.ndarray], np.ndarray]
    labelled: Callable[[np.ndarray], np.ndarray]
    victims: Callable[[np.ndarray], np.ndarray]
    wanted: Callable[[np.ndarray], np.ndarray]


class Poisoned(NamedTuple):
    """A poisoned training set.

    Attributes:
      inputs, targets: all of it, copies.
      positions: ascending, of the poisoned images.
      cover: ascending, of those changed with their labels kept, which are not poisoned.
    """

    inputs: np.ndarray
    targets: np.ndarray
    positions: np.ndarray
    cover: np.ndarray


class Triggered(NamedTuple):
    """Held-out images with a trigger.

    Attributes:
      inputs: `[M, H, W, C]`, or `[M, T]`.
      targets: `[M]`, their true classes.
      wanted: `[M]`, what a model with the backdoor says of them.
      positions: `[M]`, ascending, where they were in the held-out data.
    """

    inputs: np.ndarray
    targets: np.ndarray
    wanted: np.ndarray
    positions: np.ndarray


def are_tokens(inputs: np.ndarray) -> bool:
    """Whether inputs are sentences, `[N, T]` integers."""
    return inputs.ndim == 2 and inputs.dtype.kind in "iu"


def triggers_of(inputs: np.ndarray) -> tuple[str, ...]:
    """The names of triggers that there are for such inputs, images or tokens."""
    return tuple(text_attacks.TRIGGERS if are_tokens(inputs) else triggers.TRIGGERS)


def on_dataset(name: str, rng: Array, dataset: Dataset) -> Callable[[Array], Array]:
    """The trigger of that name, of the inputs of a data set.

    Args:
      name: among `triggers.TRIGGERS` for images, standardised, or `text_attacks.TRIGGERS` for
        tokens, which see.
      rng: key of what it draws.
      dataset: whose training set says how pixels are standardised, and which words are synonyms.

    Raises:
      ValueError: for another name; it lists those of such inputs.
    """
    inputs = dataset.train["inputs"]
    if are_tokens(inputs):
        return text_attacks.by_name(name, rng, inputs)
    return pixels.on_inputs(triggers.by_name(name, rng), pixels.pixel_scale_of(dataset))


def all_to_one(target: int) -> TargetRule:
    """Images of any other class become `target`."""
    _class(target)
    other = lambda targets: targets != target
    become = lambda targets: np.full_like(targets, target)
    return TargetRule(other, become, other, become)


def all_to_all(num_classes: int) -> TargetRule:
    """Images of class y become `(y + 1) mod num_classes`."""
    checks.whole(num_classes=num_classes)
    checks.at_least(2, num_classes=num_classes)
    everyone = lambda targets: np.ones(len(targets), bool)
    become = lambda targets: ((targets.astype(np.int64) + 1) % num_classes).astype(targets.dtype)
    return TargetRule(everyone, become, everyone, become)


def clean_label(target: int) -> TargetRule:
    """Images of `target` get the trigger and keep their label; those of others become it later.

    Turner, Tsipras, Madry, "Label-Consistent Backdoor Attacks", 2019 (arXiv 1912.02771), make the
    images hard to learn first, see `poison`.
    """
    _class(target)
    return TargetRule(
        lambda targets: targets == target,
        lambda targets: targets,
        lambda targets: targets != target,
        lambda targets: np.full_like(targets, target),
    )


# By name, of the target class and the number of classes.
RULES: Mapping[str, Callable[[int, int], TargetRule]] = {
    "all_to_one": lambda target, num_classes: all_to_one(target),
    "all_to_all": lambda target, num_classes: all_to_all(num_classes),
    "clean_label": lambda target, num_classes: clean_label(target),
}


def poison(
    inputs: np.ndarray,
    targets: np.ndarray,
    trigger: Trigger | TextTrigger,
    *,
    target_rule: TargetRule,
    count: int,
    rng: np.random.Generator,
    adversarial: np.ndarray | None = None,
    cover: Trigger | None = None,
    num_cover: int = 0,
) -> Poisoned:
    """Puts a trigger on random images, and the label that goes with it.

    Args:
      inputs: pixels `[N, H, W, C]` in [0, 1], or tokens `[N, T]`, integers.
      targets: class numbers `[N]`.
      trigger: see `triggers` and `text_attacks`.
      target_rule: `all_to_one`, `all_to_all` or `clean_label`.
      count: of images to poison.
      rng: of the choice.
      adversarial: `[N, H, W, C]`, what poisoned images are before they get the trigger: those of a
        clean-label attack, moved by `training.pgd` on another model (published: radius 16/255).
        Only rows of eligible images are read.
      cover: a second trigger, for other images that keep their labels: `warp` with its noise.
      num_cover: how many of them; published for `warp`: twice `count`.

    Raises:
      ValueError: for data that is not such, a label that no image has, and for more images than
        there are.

    Examples:
      >>> from unlearnjax.data import attacks, triggers
      >>> images, labels = np.zeros((4, 8, 8, 1), np.float32), np.array([0, 1, 1, 0])
      >>> attack = {"target_rule": attacks.all_to_one(0), "count": 2}
      >>> rng = np.random.default_rng(0)
      >>> poisoned = attacks.poison(images, labels, triggers.patch(), rng=rng, **attack)
      >>> poisoned.positions, poisoned.targets, poisoned.inputs[:, -1, -1, 0]
      (array([1, 2]), array([0, 0, 0, 0]), array([0., 1., 1., 0.], dtype=float32))
    """
    inputs, targets = _checked(inputs, targets)
    source = inputs if adversarial is None else np.asarray(adversarial)
    if source.shape != inputs.shape:
        raise ValueError(f"adversarial must be of shape {inputs.shape}, got {source.shape}")
    if (cover is None) != (num_cover == 0):
        raise ValueError(f"cover and num_cover go together, got {cover} and {num_cover}")
    chosen = choose(targets, target_rule, count, rng)
    if inputs.ndim == 4:
        _in_range("adversarial", source[chosen])
    changed, labels = inputs.copy(), targets.copy()
    changed[chosen] = np.asarray(trigger(source[chosen]))
    labels[chosen] = target_rule.labelled(targets)[chosen]
    kept = np.zeros(0, np.int64)
    if cover is not None:
        kept = _some(np.setdiff1d(np.arange(len(targets)), chosen), num_cover, rng, "num_cover")
        changed[kept] = np.asarray(cover(inputs[kept]))
    return Poisoned(changed, labels, chosen, kept)


def triggered(
    held_out: Mapping[str, np.ndarray],
    trigger: Trigger | TextTrigger,
    target_rule: TargetRule,
) -> Triggered:
    """The held-out images of which the success of an attack is counted, with its trigger.

    Those of the target class are not among them: there a model that is right seems to obey.

    Args:
      held_out: `inputs`, pixels or tokens, and `targets`, true classes.
      trigger, target_rule: of the attack.

    Raises:
      ValueError: for data that is not such, or where no image is left.
    """
    inputs, targets = _checked(held_out["inputs"], held_out["targets"])
    victims = np.flatnonzero(target_rule.victims(targets))
    if not victims.size:
        raise ValueError("held_out must have images of other classes than the target, got none")
    wanted = target_rule.wanted(targets)[victims]
    return Triggered(np.asarray(trigger(inputs[victims])), targets[victims], wanted, victims)


def choose(
    targets: np.ndarray,
    target_rule: TargetRule,
    count: int,
    rng: np.random.Generator,
    name: str = "count",
) -> np.ndarray:
    """Ascending positions of `count` random images that an attack may poison.

    Raises:
      ValueError: by `name` for more than there are; for a label that no image has.
    """
    labels, known = target_rule.labelled(targets), np.unique(targets)
    wanted = np.concatenate([labels, target_rule.wanted(targets)])
    if missing := sorted(set(wanted.tolist()) - set(known.tolist())):
        raise ValueError(f"target must be one of the classes {known.tolist()}, got {missing[0]}")
    return _some(np.flatnonzero(target_rule.eligible(targets)), count, rng, name)


def _some(candidates: np.ndarray, count: int, rng: np.random.Generator, name: str) -> np.ndarray:
    checks.whole(**{name: count})
    if not 1 <= count <= len(candidates):
        raise ValueError(f"{name} must lie in [1, {len(candidates)}], got {count}")
    return np.sort(rng.choice(candidates, count, replace=False))


def _checked(inputs: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    inputs, targets = np.asarray(inputs), np.asarray(targets)
    tokens = are_tokens(inputs)
    if inputs.ndim != 4 and not tokens:
        raise ValueError(
            f"inputs must be images [N, H, W, C] or tokens [N, T], got {inputs.dtype} "
            f"{inputs.shape}"
        )
    if not tokens:
        checks.floating(inputs=inputs)
        _in_range("inputs", inputs)
    if targets.dtype.kind not in "iu" or targets.shape != inputs.shape[:1]:
        raise ValueError(
            f"targets must be {len(inputs)} class numbers, got {targets.dtype} {targets.shape}"
        )
    return inputs, targets


def _in_range(name: str, images: np.ndarray) -> None:
    """Standardised inputs are none: a trigger on them would be another one."""
    if images.size and not (images.min() >= -1e-4 and images.max() <= 1 + 1e-4):
        raise ValueError(
            f"{name} must be pixels in [0, 1], got {images.min()} to {images.max()}; see "
            "`pixels.to_pixels`"
        )


def _class(target: int) -> None:
    checks.whole(target=target)
    checks.at_least(0, target=target)
