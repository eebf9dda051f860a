import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import problems
from unlearnjax import training
from unlearnjax.training.checkpoints import Checkpoints


def tree(seed=0):
    return {
        "state": training.init_state(
            {"params": {"w": jax.random.normal(jax.random.key(seed), (3, 2))}, "s": jnp.ones(2)},
            optax.adam(1e-3),
        ),
        "rng": jax.random.key(seed),
        "history": np.arange(3.0),
    }


def test_what_is_restored_is_what_was_saved_types_and_keys_included(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.latest_step() is None
        checkpoints.save(1, tree(1))
        checkpoints.save(2, tree(2))
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.latest_step() == 2
        restored = checkpoints.restore(tree(0))
        first = checkpoints.restore(tree(0), step=1)
    keys = [jax.random.key_data(t.pop("rng")) for t in (restored, first)]
    expected = [tree(2), tree(1)]
    for key, t in zip(keys, expected, strict=True):
        np.testing.assert_array_equal(key, jax.random.key_data(t.pop("rng")))
    problems.assert_trees_equal(restored, expected[0])
    problems.assert_trees_equal(first, expected[1])
    assert isinstance(restored["state"], training.TrainState)


def test_load_needs_no_structure(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        with pytest.raises(ValueError, match="no checkpoint in"):
            checkpoints.load()
        checkpoints.save(3, {"a": {"b": jnp.arange(3)}, "c": np.float32(2.0)})
    with Checkpoints(tmp_path / "c") as checkpoints:
        stored = checkpoints.load()
    assert sorted(stored) == ["a.b", "c"]
    np.testing.assert_array_equal(stored["a.b"], np.arange(3))


def test_only_the_newest_are_kept(tmp_path):
    with Checkpoints(tmp_path / "c", max_to_keep=2) as checkpoints:
        for step in range(4):
            checkpoints.save(step, {"x": jnp.ones(2)})
    assert sorted(p.name for p in (tmp_path / "c").iterdir() if p.name.isdigit()) == ["2", "3"]


def test_foreign_directory_is_refused_and_left_as_it_was(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="not empty and was not written by unlearnjax"):
        Checkpoints(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(ValueError, match="is a file"):
        Checkpoints(tmp_path / "thesis.tex")


def test_damage_and_other_structures_are_told_apart_from_success(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, {"x": jnp.ones(2)})
    with Checkpoints(tmp_path / "c") as checkpoints:
        for like in ({"x": jnp.ones(3)}, {"y": jnp.ones(2)}, {"x": jnp.ones(2), "y": jnp.ones(1)}):
            with pytest.raises(ValueError, match="damaged or of another configuration"):
                checkpoints.restore(like)
        with pytest.raises(ValueError, match="cannot be restored"):
            checkpoints.restore({"x": jnp.ones(2)}, step=7)
    for path in (tmp_path / "c" / "1").rglob("*"):
        if path.is_file():
            path.write_bytes(b"\x00garbage")
    with Checkpoints(tmp_path / "c") as checkpoints:
        with pytest.raises(ValueError, match="Delete it to go on") as caught:
            checkpoints.restore({"x": jnp.ones(2)})
    assert "\n" not in str(caught.value)


def test_restoring_from_nothing_is_refused(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        with pytest.raises(ValueError, match="no checkpoint in"):
            checkpoints.restore({"x": jnp.ones(2)})
