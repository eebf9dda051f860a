"""Corrupted training data for corrective unlearning: poisoned images, confused classes.

Goel et al., "Corrective Machine Unlearning", TMLR 2024 (arXiv 2402.14015). All on the host, in
NumPy: data is corrupted once, before anything is compiled.
"""

from typing import NamedTuple

import numpy as np

from unlearnjax import checks
from unlearnjax.data.forget_sets import Selection, complement, number, parts, whole_class

SPECS = "poison:COUNT:GAMMA (trigger and label 0), confusion:A+B:COUNT:GAMMA (labels swapped)"
KINDS = ("poison", "confusion")
TRIGGER_LABEL = 0


class Corrupted(NamedTuple):
    """A corrupted data set.

    Attributes:
      train: the training data, corrupted.
      held_out: held-out data; for poison followed by copies that carry the trigger, labels clean.
      corrupt: positions in `train` of everything that was corrupted.
      selection: forget is the known part of it; unseen are the held-out examples that the
        corruption affects (their accuracy is the *corrected accuracy*), test the other ones.
    """

    train: dict[str, np.ndarray]
    held_out: dict[str, np.ndarray]
    corrupt: np.ndarray
    selection: Selection


def corrupt(spec: str, train: dict, held_out: dict, rng: np.random.Generator) -> Corrupted:
    """Corrupts as `spec` says, see `SPECS`, and picks the part that is known.

    Args:
      spec: COUNT examples are corrupted, of which the share GAMMA in (0, 1] is known.
      train: `inputs` and `targets`, NumPy.
      held_out: data that no model trains on, in the same form.
      rng: source of the random choices.

    Raises:
      ValueError: if `spec` is not understood or asks for more than there is.
    """
    kind, _, rest = spec.partition(":")
    try:
        if kind == "poison":
            count, gamma = parts(rest, "poison:COUNT:GAMMA")
            result = _poison(train, held_out, _integer(count, "COUNT"), rng)
        elif kind == "confusion":
            classes, count, gamma = parts(rest, "confusion:A+B:COUNT:GAMMA")
            if classes.count("+") != 1:
                raise ValueError(f"two classes A+B are needed, got {classes!r}")
            first, second = (_integer(c, "class") for c in classes.split("+"))
            result = _confuse(train, held_out, first, second, _integer(count, "COUNT"), rng)
        else:
            raise ValueError(f"must be one of {SPECS}")
        complement(result.corrupt, len(train["targets"]))  # something must be clean
        known = _known(result.corrupt, number(gamma, "GAMMA"), rng)
        return result._replace(selection=result.selection._replace(forget=known))
    except ValueError as error:
        raise ValueError(f"forget={spec!r}: {error}") from error


def add_trigger(images: np.ndarray, value: np.ndarray, size: int) -> np.ndarray:
    """Copies of `[N, H, W, C]` with the lower right `size` x `size` pixels set to `value` `[C]`."""
    result = images.copy()
    result[:, -size:, -size:] = value
    return result


def _poison(train, held_out, count: int, rng: np.random.Generator) -> Corrupted:
    """BadNet (Gu et al., 2017): a bright patch in the corner, and the label 0."""
    inputs, targets = train["inputs"], train["targets"]
    if inputs.ndim != 4:
        raise ValueError(f"poison needs images [N, H, W, C], got inputs of shape {inputs.shape}")
    if targets.dtype.kind == "f":
        raise ValueError(f"poison needs class numbers as targets, got {targets.dtype}")
    chosen = _choose(np.flatnonzero(targets != TRIGGER_LABEL), count, rng)
    bright, size = inputs.max((0, 1, 2)), max(1, inputs.shape[1] // 8)
    inputs, targets = inputs.copy(), targets.copy()
    inputs[chosen] = add_trigger(inputs[chosen], bright, size)
    targets[chosen] = TRIGGER_LABEL
    clean = np.arange(len(held_out["targets"]))
    victims = np.flatnonzero(held_out["targets"] != TRIGGER_LABEL)
    copies = {name: value[victims] for name, value in held_out.items()}
    copies["inputs"] = add_trigger(copies["inputs"], bright, size)
    both = {name: np.concatenate([held_out[name], copies[name]]) for name in held_out}
    unseen = len(clean) + np.arange(len(victims))
    corrupted = {**train, "inputs": inputs, "targets": targets}
    return Corrupted(corrupted, both, chosen, Selection(chosen, unseen, clean))


def _confuse(train, held_out, first: int, second: int, count: int, rng) -> Corrupted:
    """Interclass confusion: the labels of two classes are swapped on the chosen examples."""
    if first == second:
        raise ValueError(f"two different classes are needed, got {first}+{second}")
    targets = train["targets"]
    chosen = _choose(whole_class(targets, [first, second]), count, rng)
    targets = targets.copy()
    targets[chosen] = np.where(targets[chosen] == first, second, first)
    confused = np.isin(held_out["targets"], [first, second])
    selection = Selection(chosen, np.flatnonzero(confused), np.flatnonzero(~confused))
    return Corrupted({**train, "targets": targets}, held_out, chosen, selection)


def _integer(text: str, name: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise ValueError(f"{name} must be an integer, got {text!r}") from error


def _choose(candidates: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    if not 1 <= count <= len(candidates):
        raise ValueError(f"COUNT must lie in [1, {len(candidates)}], got {count}")
    return np.sort(rng.choice(candidates, count, replace=False))


def _known(chosen: np.ndarray, gamma: float, rng: np.random.Generator) -> np.ndarray:
    checks.part(GAMMA=gamma)
    return np.sort(rng.choice(chosen, max(1, round(gamma * len(chosen))), replace=False))
