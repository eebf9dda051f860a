"""What the numbers of a config may be, declared once and checked before anything is computed.

A range is looked up by a field's path from 'config.' on, then by ever shorter ends of it: 'gamma'
is every field of that name, 'config.gamma' the one at the top. Constructors and data may narrow it.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from unlearnjax import importing


class Range(NamedTuple):
    """Numbers from `low` to `high`, without those named in `without`; `whole`: integers alone."""

    low: float
    high: float
    without: tuple[float, ...] = ()
    whole: bool = False

    def __contains__(self, value: float) -> bool:
        """NaN is in no range."""
        kind = isinstance(value, int) or not self.whole
        return kind and self.low <= value <= self.high and value not in self.without

    def __str__(self) -> str:
        left, right = (
            ("(" if self.low in self.without else "["),
            ("]", ")")[self.high in self.without],
        )
        return (
            f"{'an integer' if self.whole else 'a number'} in {left}{self.low}, {self.high}{right}"
        )


COUNT = Range(1, 10**6, whole=True)
COUNT_OR_NONE = Range(0, 10**6, whole=True)
PAIR_OR_MORE = Range(2, 10**6, whole=True)
EXAMPLES = Range(1, 2**31 - 1, whole=True)
POSITIVE = Range(0, math.inf, without=(0, math.inf))
STRENGTH = Range(0, math.inf, without=(math.inf,))
SHARE = Range(0, 1)
INSIDE = Range(0, 1, without=(0, 1))
NOT_NONE = Range(0, 1, without=(0,))
NOT_ALL = Range(0, 1, without=(1,))
# What is declared by nobody: the fields of constructors and models that are not ours.
INTEGER = Range(-(2**31), 2**31 - 1, whole=True)
FINITE = Range(-math.inf, math.inf, without=(-math.inf, math.inf))

RANGES = {
    # What is learned, from what.
    "seed": Range(0, 2**32 - 1, whole=True),  # keys take 32 bits; more would repeat smaller seeds
    "num_seeds": COUNT,
    "num_oracles": COUNT_OR_NONE,
    "num_train": EXAMPLES,
    "num_test": EXAMPLES,
    "validation_fraction": INSIDE,
    "superclasses": Range(0, 2**31 - 1, whole=True),
    "batch_size": COUNT,
    "num_epochs": COUNT,
    "average": NOT_ALL,
    "checkpoint_every": COUNT,
    "condition_dropout": SHARE,
    "clip_norm": POSITIVE,
    "learning_rate": POSITIVE,
    # Models.
    "attention": COUNT,
    "channels": COUNT,
    "depth": COUNT_OR_NONE,
    "dropout": NOT_ALL,
    "hidden": COUNT,
    "eps": STRENGTH,
    "num_hops": COUNT_OR_NONE,
    "vocabulary": COUNT,
    "out": COUNT,
    "image_size": COUNT_OR_NONE,
    "mlp_width": COUNT,
    "multiples": COUNT,
    "norm_eps": POSITIVE,
    "num_blocks": COUNT,
    "num_heads": COUNT,
    "num_kv_heads": COUNT,
    "patch_size": COUNT,
    "stage_sizes": COUNT,
    "width": COUNT,
    # Language.
    "length": COUNT,
    "lora.alpha": POSITIVE,
    "max_new_tokens": COUNT,
    "num_authors": PAIR_OR_MORE,
    "num_questions": COUNT,
    "num_refusals": COUNT,
    "task_options.temperature": STRENGTH,
    "vocab_size": COUNT,
    # Audits.
    "guidance": STRENGTH,
    "least_known": SHARE,
    "least_object": SHARE,
    "least_real": SHARE,
    "least_samples": SHARE,
    "least_style": SHARE,
    "margin": STRENGTH,
    "max_steps": COUNT,
    "min_k": NOT_NONE,
    "num_draws": COUNT,
    "num_examples": COUNT,
    "num_neighbours": COUNT,
    "num_retain": COUNT,
    "per_cell": COUNT,
    "per_class": PAIR_OR_MORE,
    "rounding.num_perturbed": COUNT_OR_NONE,
    "rounding.num_seeds": COUNT_OR_NONE,
    "rounding.size": SHARE,
    # Fields of the methods.
    "align_rate": STRENGTH,
    "alpha": STRENGTH,
    "anchor": COUNT_OR_NONE,
    "anchor_weight": STRENGTH,
    "bank": COUNT,
    "beta": STRENGTH,
    "beta1": STRENGTH,
    "beta2": STRENGTH,
    "gradient_ascent_plus.beta": SHARE,
    "blind_epochs": COUNT,
    "budget": COUNT,
    "clip": POSITIVE,
    "dampening": STRENGTH,
    "damping": STRENGTH,
    "decay": SHARE,
    "distil_steps": COUNT_OR_NONE,
    "erase_weight": STRENGTH,
    "eta": STRENGTH,
    "feature_weight": STRENGTH,
    "forget_weight": STRENGTH,
    "gamma": STRENGTH,
    "hops": COUNT_OR_NONE,
    "keep": NOT_NONE,
    "layers": COUNT,
    "max_epochs": COUNT_OR_NONE,
    "max_loss": POSITIVE,
    "noise": STRENGTH,
    "noise_decay": STRENGTH,
    "noise_steps": COUNT,
    "num_copies": COUNT,
    "num_features": COUNT,
    "num_images": COUNT,
    "num_noise": COUNT,
    "num_rounds": COUNT_OR_NONE,
    "num_shards": COUNT,
    "num_slices": COUNT,
    "num_steps": COUNT,
    "per_round": INSIDE,
    "preserve_weight": STRENGTH,
    "prune_epochs": COUNT,
    "radius": POSITIVE,
    "rank": COUNT,
    "retain_fraction": NOT_NONE,
    "retain_multiplier": POSITIVE,
    "retain_weight": STRENGTH,
    "repeats": COUNT,
    "replay_weight": STRENGTH,
    "rewind_epochs": COUNT,
    "ridge": POSITIVE,
    "sample_steps": COUNT,
    "scale": POSITIVE,
    "score_rate": POSITIVE,
    "sigma": POSITIVE,
    "slack": STRENGTH,
    "spare": COUNT_OR_NONE,
    "sparsity": NOT_ALL,
    "strength": STRENGTH,
    "temperature": POSITIVE,
    # Streams.
    "config.gamma": POSITIVE,
    "head.ascent_rate": POSITIVE,
    "head.ewc": STRENGTH,
    "head.retrain_epochs": COUNT,
    "head.ssd_alpha": POSITIVE,
    "head.ssd_dampening": STRENGTH,
    # Many models, attribution.
    "chunk": COUNT,
    "num_models": PAIR_OR_MORE,
    "num_held_out": PAIR_OR_MORE,
    "num_references": PAIR_OR_MORE,
    "num_originals": COUNT_OR_NONE,
    "num_checkpoints": COUNT,
    "num_projections": COUNT,
    "penalties": POSITIVE,
    "share": INSIDE,
    "ekfac.damping": POSITIVE,
    # Backdoors.
    "ascent_epochs": COUNT,
    "ascent_rate": POSITIVE,
    "epsilon": STRENGTH,
    "label": Range(0, 2**31 - 1, whole=True),
    "max_drop": SHARE,
    "num_clean": COUNT,
    "num_overlays": COUNT,
    "poison_rate": INSIDE,
    "pruned.share": SHARE,
    "step_size": STRENGTH,
    "stop_accuracy": SHARE,
    "trigger_unlearning.share": SHARE,
    "weight": STRENGTH,
    # Worst-case sets, sweeps.
    "lower_epochs": COUNT,
    "lower_learning_rate": POSITIVE,
    "round_every": COUNT,
    "size": Range(0, 2**31 - 1),
    "config.budget": POSITIVE,
    "max_ratio": POSITIVE,
    "max_trials": COUNT,
    # Protected data.
    "blur": SHARE,
    "blurs": SHARE,
    "bound": POSITIVE,
    "centre": POSITIVE,
    "coarse": Range(0, 2**31 - 1, whole=True),
    "deviation": STRENGTH,
    "kernel_size": COUNT,
    "noise.epsilon": NOT_NONE,
    "num_clusters": PAIR_OR_MORE,
    "num_surrogate": EXAMPLES,
    "padding": COUNT_OR_NONE,
    "shares": INSIDE,
}


def validate(config: ConfigDict) -> None:
    """Raises `ValueError` for a number of the config outside of its range; names both."""
    for path, value in numbers(config):
        allowed = declared(path)
        if allowed is None or _foreign(config, path):
            allowed = INTEGER if isinstance(value, int) else FINITE
        if value not in allowed:
            raise ValueError(f"{path} must be {allowed}, got {value}")


def declared(path: str) -> Range | None:
    """The range of the field at `path`, e.g. 'config.train.num_epochs'; `None` if there is none."""
    ends = path.split(".")
    names = (".".join(ends[i:]) for i in range(len(ends)))
    return next((RANGES[name] for name in names if name in RANGES), None)


def numbers(value: Any, path: str = "config") -> Iterator[tuple[str, float]]:
    """Every number in a config with the path of its field, those in tuples too."""
    if isinstance(value, ConfigDict):
        for name, inner in value.items():
            yield from numbers(inner, f"{path}.{name}")
    elif isinstance(value, tuple | list):
        for inner in value:
            yield from numbers(inner, path)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, value


def _foreign(config: ConfigDict, path: str) -> bool:
    """Whether the field is one of a model or a method of the user's own."""
    _, *parents, _ = path.split(".")
    if parents[:2] == ["model", "options"]:
        return importing.is_path(config.model.name)
    if len(parents) == 2 and parents[0] == "unlearn":
        return importing.is_path(config.unlearn[parents[1]].get("constructor", ""))
    return False
