"""Corrupted training data for corrective unlearning: poisoned images or text, confused classes.

Goel et al., "Corrective Machine Unlearning", TMLR 2024 (arXiv 2402.14015). All on the host: data is
corrupted once, before anything is compiled. Triggers other than theirs are those of the family of
backdoors, see `triggers`; images beside the poisoned, which `attacks.poison` can change without
their labels, there are none.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from unlearnjax import checks
from unlearnjax.data import attacks, text_attacks, triggers
from unlearnjax.data.dataset import Dataset
from unlearnjax.data.forget_sets import Selection, complement, number, parts, whole_class

POISON = "poison:COUNT:GAMMA[:TRIGGER[:RULE]]"
SPECS = (
    f"{POISON} (a trigger, and the label 0; TRIGGER of {', '.join(triggers.TRIGGERS)}, else a "
    f"bright patch, or for text of {', '.join(text_attacks.TRIGGERS)}, else the first; "
    f"RULE of {', '.join(attacks.RULES)}, else the first), "
    "confusion:A+B:COUNT:GAMMA (labels swapped)"
)
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


def corrupt(
    spec: str,
    train: dict,
    held_out: dict,
    rng: np.random.Generator,
    dataset: Dataset | None = None,
) -> Corrupted:
    """Corrupts as `spec` says, see `SPECS`, and picks the part that is known.

    Args:
      spec: COUNT examples are corrupted, of which the share GAMMA in (0, 1] is known. TRIGGER is
        one of `triggers.TRIGGERS`, or for tokens `text_attacks.TRIGGERS`; without, it is a bright
        patch, or the first of these. RULE is one of `attacks.RULES`:
        images of other classes get the label 0, images of each class that of the next one, or
        images of class 0 keep it.
      train: `inputs` and `targets`, NumPy.
      held_out: data that no model trains on, in the same form.
      rng: source of the random choices.
      dataset: of which the inputs are; only a TRIGGER needs it, and text.

    Raises:
      ValueError: if `spec` is not understood or asks for more than there is.
    """
    kind, _, rest = spec.partition(":")
    try:
        if kind == "poison":
            count, gamma, trigger, rule = _poisoning(rest)
            count = _integer(count, "COUNT")
            result = _poison(train, held_out, count, trigger, rule, rng, dataset)
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


def _poison(train, held_out, count: int, name: str, rule: str, rng, dataset) -> Corrupted:
    inputs, targets = train["inputs"], train["targets"]
    if inputs.ndim != 4 and not attacks.are_tokens(inputs):
        raise ValueError(
            f"poison needs images [N, H, W, C] or tokens [N, T], got {inputs.dtype} {inputs.shape}"
        )
    if targets.dtype.kind == "f":
        raise ValueError(f"poison needs class numbers as targets, got {targets.dtype}")
    target_rule = attacks.RULES[rule](TRIGGER_LABEL, int(targets.max()) + 1)
    chosen = attacks.choose(targets, target_rule, count, rng, "COUNT")
    trigger = _trigger(name, inputs, rng, dataset)
    inputs, targets = inputs.copy(), targets.copy()
    inputs[chosen] = trigger(inputs[chosen])
    targets[chosen] = target_rule.labelled(targets)[chosen]
    clean = np.arange(len(held_out["targets"]))
    victims = np.flatnonzero(target_rule.victims(held_out["targets"]))
    copies = {name: value[victims] for name, value in held_out.items()}
    copies["inputs"] = trigger(copies["inputs"])
    both = {name: np.concatenate([held_out[name], copies[name]]) for name in held_out}
    unseen = len(clean) + np.arange(len(victims))
    corrupted = {**train, "inputs": inputs, "targets": targets}
    return Corrupted(corrupted, both, chosen, Selection(chosen, unseen, clean))


def _trigger(name: str, inputs: np.ndarray, rng, dataset) -> Callable[[np.ndarray], np.ndarray]:
    """Of standardised inputs; without a name BadNet's (Gu et al., 2017), a bright corner."""
    named = attacks.triggers_of(inputs)
    if not name and attacks.are_tokens(inputs):
        name = named[0]
    if not name:
        bright, size = inputs.max((0, 1, 2)), max(1, inputs.shape[1] // 8)
        return lambda images: add_trigger(images, bright, size)
    checks.one_of(TRIGGER=(name, named))
    if dataset is None:
        raise ValueError(f"a trigger needs the dataset whose inputs it changes, got {name!r}")
    trigger = attacks.on_dataset(name, jax.random.key(int(rng.integers(2**32))), dataset)
    return lambda images: np.asarray(trigger(images))


def _poisoning(text: str) -> list[str]:
    """COUNT, GAMMA, TRIGGER and RULE."""
    found = text.split(":")
    if not 2 <= len(found) <= 4:
        raise ValueError(f"must be like {POISON}")
    if len(found) > 3:
        checks.one_of(RULE=(found[3], tuple(attacks.RULES)))
    return found + ["", next(iter(attacks.RULES))][len(found) - 2 :]


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
