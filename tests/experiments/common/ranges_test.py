"""Every number of every config has a declared range, checked before any data is loaded."""

import importlib
import json
import math
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from experiments import publish
from experiments.common import ranges, runner
from tests.experiments import cli
from unlearnjax import models

FAMILIES = sorted(
    path.stem for path in (cli.ROOT / "configs").glob("*.py") if path.stem != "__init__"
)
CONFIGS = (
    *((family, "") for family in FAMILIES),
    *(("unlearn", f"digits,model={name}") for name in models.BY_NAME),
    *(("backdoor", f"vader_polarity,model={name}") for name in models.TEXT_CLASSIFIERS),
    ("worst_case", "diabetes"),
    ("unlearn", "digits,superclasses=0+2/1+3,train=100,test=50"),
)
HUGE = 10**12


def config_of(family, arg):
    return importlib.import_module(f"configs.{family}").get_config(arg)


def unset(config, path="config"):
    """Paths of the fields that may be set and are not."""
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from unset(value, f"{path}.{name}")
        elif value is None and config.get_type(name) in (int, float):
            yield f"{path}.{name}"


def only(path, value):
    """A config with that number alone."""
    for name in reversed(path.split(".")[1:]):
        value = {name: value}
    value.setdefault("model", {})["name"] = "mlp"
    return ConfigDict(value)


@pytest.mark.parametrize(("family", "arg"), CONFIGS)
def test_every_number_of_every_config_has_a_range_and_is_in_it(family, arg):
    config = config_of(family, arg)
    ranges.validate(config)
    paths = [path for path, _ in ranges.numbers(config)] + list(unset(config))
    assert len(paths) > 15
    assert [path for path in paths if ranges.declared(path) is None] == []


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_out_of_range_is_named_in_one_line(family):
    config = config_of(family, "")
    paths = {path for path, _ in ranges.numbers(config)} | set(unset(config))
    refused = set()
    for path in paths:
        allowed = ranges.declared(path)
        for value in (0, -1, HUGE, math.nan, math.inf):
            inside = allowed.low <= value <= allowed.high and value not in allowed.without
            inside = inside and (isinstance(value, int) or not allowed.whole)
            if inside:
                ranges.validate(only(path, value))
                continue
            refused.add((path, str(value)))
            with pytest.raises(ValueError) as caught:
                ranges.validate(only(path, value))
            assert str(caught.value).startswith(f"{path} must be {allowed}, got {value}")
    # No field takes what is not a number, and none of those that count takes the huge one.
    for path in paths:
        assert {(path, "nan"), (path, "inf"), (path, "-1")} <= refused
        if ranges.declared(path).whole and path.split(".")[-1] not in ("num_train", "num_test"):
            assert (path, str(HUGE)) in refused


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("config.train.num_epochs", "an integer in [1, 1000000]"),
        ("config.gamma", "a number in (0, inf)"),
        ("config.head.gamma", "a number in [0, inf)"),
        ("config.unlearn.salun.keep", "a number in (0, 1]"),
        ("config.unlearn.prune_finetune.sparsity", "a number in [0, 1)"),
        ("config.ensemble.share", "a number in (0, 1)"),
        ("config.unlearn.gradient_ascent_plus.beta", "a number in [0, 1]"),
        ("config.budget", "a number in (0, inf)"),
        ("config.unlearn.s3t.budget", "an integer in [1, 1000000]"),
        ("config.seed", "an integer in [0, 4294967295]"),
        ("config.num_train", "an integer in [1, 2147483647]"),
        ("config.superclasses", "an integer in [0, 2147483647]"),
        ("config.size", "a number in [0, 2147483647]"),
        ("config.num_originals", "an integer in [0, 1000000]"),
        ("config.ensemble.num_models", "an integer in [2, 1000000]"),
    ],
)
def test_ranges_are_those_of_the_longest_end_of_a_path(path, text):
    assert str(ranges.declared(path)) == text
    assert ranges.declared("config.nothing.of_ours") is None


def test_bounds_belong_to_a_range_unless_they_are_left_out():
    assert 0 in ranges.SHARE and 1 in ranges.SHARE and 0.5 in ranges.INSIDE
    assert 0 not in ranges.INSIDE and 1 not in ranges.INSIDE
    assert str(ranges.INTEGER) == "an integer in [-2147483648, 2147483647]"
    assert 1.5 not in ranges.COUNT and 1 in ranges.COUNT and 10**6 + 1 not in ranges.COUNT
    assert math.nan not in ranges.FINITE and math.nan not in ranges.SHARE
    ranges.validate(only("config.model.options.hidden", (8, 4)))
    for wrong in ((8, 0), [[8], [-1]]):
        with pytest.raises(ValueError, match="config.model.options.hidden must be an integer"):
            ranges.validate(only("config.model.options.hidden", wrong))


def test_fields_of_ones_own_take_any_number_that_there_is():
    own = {"constructor": "my_module:gentle", "alpha": -2.5, "layers": 0}
    variant = {"constructor": "scrub", "alpha": 0.1}
    config = ConfigDict(
        {
            "model": {"name": "my_models:Small", "options": {"hidden": -3}},
            "unlearn": {"gentle": own, "ssd": {"alpha": 1.0}, "scrub_rewind": variant},
        }
    )
    ranges.validate(config)
    for path, value in (
        ("config.unlearn.gentle.alpha", math.nan),
        ("config.unlearn.gentle.layers", HUGE),
        ("config.model.options.hidden", HUGE),
        ("config.unlearn.ssd.alpha", -2.5),
        ("config.unlearn.scrub_rewind.alpha", -2.5),
    ):
        changed = config.copy_and_resolve_references()
        with changed.ignore_type():
            changed.update_from_flattened_dict({path.removeprefix("config."): value})
        with pytest.raises(ValueError, match=f"{path} must be a"):
            ranges.validate(changed)
    config.model.name = "mlp"
    with pytest.raises(ValueError, match="config.model.options.hidden must be an integer in"):
        ranges.validate(config)


@pytest.mark.parametrize("path", sorted(publish.RESULTS.glob("*.json")), ids=lambda p: p.stem)
def test_published_configs_are_in_their_ranges(path):
    ranges.validate(ConfigDict(json.loads(path.read_text())["config"], convert_dict=True))


def test_they_are_checked_at_launch_before_any_data_is_loaded(tmp_path):
    def story(config, run):
        raise AssertionError("the story must not begin")

    config = cli.make_config("configs/unlearn.py:digits", "--config.evaluate.batch_size=0")
    with pytest.raises(ValueError, match="config.evaluate.batch_size must be an integer in"):
        runner.execute(story, "unlearn", config, tmp_path / "run", None)
    assert not Path(tmp_path / "run").exists()
