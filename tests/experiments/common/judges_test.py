import types

import jax
import numpy as np
import pytest

from configs import diffusion, unlearn
from experiments.common import judges as judges_lib
from experiments.common import measure


def test_halves_share_no_example_and_leave_none():
    one, other = judges_lib.halves(11, seed=3)
    assert sorted([*one, *other]) == list(range(11)) and abs(len(one) - len(other)) == 1
    assert (np.diff(one) > 0).all() and (np.diff(other) > 0).all()
    assert not np.array_equal(one, judges_lib.halves(11, seed=4)[0])
    assert np.array_equal(one, judges_lib.halves(11, seed=3)[0])


def test_bytes_and_images_are_inverses():
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    images = judges_lib.inputs(every)
    assert images.dtype == np.float32 and images.min() == -1 and images.max() == 1
    assert np.array_equal(judges_lib.pixels(images), every)
    odd = np.array([-7, 7, np.nan, np.inf, -np.inf, 0.0], np.float16)
    assert judges_lib.pixels(odd).tolist() == [0, 255, 128, 255, 0, 128]


def test_accuracies_are_of_each_judge():
    probs = np.eye(3)[[0, 1, 2, 2]]
    opinions = [judges_lib.Opinion(p, None) for p in (probs, probs[::-1])]
    assert judges_lib.accuracies(opinions, np.array([0, 1, 2, 0])) == pytest.approx([0.75, 0.25])


def test_each_judge_is_trained_on_its_half_with_its_key(monkeypatch):
    """And as `evaluate.judges` says, on a bench that trains otherwise itself."""
    config = unlearn.get_config("digits")
    diffusion.set_audits(config, {})
    config.evaluate.judges.train.num_epochs = 3
    config.evaluate.judges.model.options.hidden = 5
    data = {"inputs": np.zeros((20, 8, 8, 1), np.float32), "targets": np.arange(20) % 4}
    problem = types.SimpleNamespace(train=data, dataset=types.SimpleNamespace(num_classes=4))
    bench = types.SimpleNamespace(config=config, problem=problem, train=data)
    seen, extended = [], []

    def fitter(config, task, train, indices):
        assert train is data and config.train.num_epochs == 3
        one = {k: v[:1] for k, v in train.items()}
        shapes = jax.eval_shape(lambda: task.init(jax.random.key(0), one))["params"]
        assert shapes["Dense_0"]["kernel"].shape[1] == 5 and shapes["Dense_1"]["bias"].shape == (4,)

        def fit(run, name, rng):
            seen.append((name, indices.tolist(), rng))
            return types.SimpleNamespace(variables=name)

        return types.SimpleNamespace(fit=fit)

    monkeypatch.setattr(measure, "fitter", fitter)
    run = types.SimpleNamespace(extend=extended.append)
    found = judges_lib.train(bench, run)
    (first, own, one), (second, others, other) = seen
    assert found.variables == (first, second) and first != second and extended == [6]
    assert sorted(own + others) == list(range(20))
    assert not np.array_equal(jax.random.key_data(one), jax.random.key_data(other))
    assert found.task.draw is None
    config.evaluate.judges.train.augment = True
    assert judges_lib.train(bench, run).task.draw is not None
