import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from tests import disks, problems
from unlearnjax import training, trees
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
    with Checkpoints(tmp_path / "new" / "c", max_to_keep=2) as checkpoints:
        for step in range(4):
            checkpoints.save(step, {"x": jnp.ones(2)})
    assert sorted(p.name for p in (tmp_path / "new/c").iterdir() if p.name.isdigit()) == ["2", "3"]


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


def restored(directory, tree, like=None):
    """`tree` saved and restored into `like`, and what `load` gives."""
    with Checkpoints(directory) as checkpoints:
        checkpoints.save(1, tree)
    with Checkpoints(directory) as checkpoints:
        return checkpoints.restore(tree if like is None else like), checkpoints.load()


def test_keys_come_back_to_their_own_paths_whatever_characters_they_have(tmp_path):
    odd = ("a.b", "a/b", "a%2Eb", "", "..", "a@b", "a:b", ":escaped", "ü 中\n", "\udc80")
    tree = {"a": {"b": 0}, **{key: i for i, key in enumerate(odd, start=1)}}
    tree = jax.tree.map(jnp.float32, tree)
    like = jax.tree.map(jnp.zeros_like, tree)
    found, arrays = restored(tmp_path / "c", tree, like)
    problems.assert_trees_equal(found, tree)
    # Two would be alike, so that all names are the escaped ones.
    assert arrays["a.b"] == 0 and arrays["a%2Eb"] == 1 and arrays["a%252Eb"] == 3
    assert len(arrays) == len(odd) + 1
    with Checkpoints(tmp_path / "other") as checkpoints:
        checkpoints.save(1, {"a.b": jnp.ones(2)})
    with Checkpoints(tmp_path / "other") as checkpoints:
        assert list(checkpoints.load()) == ["a.b"]
        with pytest.raises(ValueError, match=r"it holds \['a%2Eb'\] in the place of \['a.b'\]"):
            checkpoints.restore({"a": {"b": jnp.ones(2)}})


def test_leaves_without_elements_and_trees_without_leaves(tmp_path):
    tree = {
        "none": None,
        "jax": jnp.ones((0, 3), jnp.bfloat16),
        "numpy": np.ones((2, 0)),
        "keys": jax.random.split(jax.random.key(0), 0),
        "x": jnp.arange(2),
    }
    found, arrays = restored(tmp_path / "c", tree)
    assert found["none"] is None and found["keys"].shape == (0,) and trees.is_key(found["keys"])
    shapes = {name: (str(x.dtype), x.shape) for name, x in arrays.items()}
    assert shapes == {
        "jax": ("bfloat16", (0, 3)),
        "numpy": ("float64", (2, 0)),
        "keys": ("uint32", (0, 2)),
        "x": ("int32", (2,)),
    }
    with Checkpoints(tmp_path / "c") as checkpoints:
        with pytest.raises(ValueError, match="'jax:bfloat16:0x3'.* in the place of .*0x4"):
            checkpoints.restore({**tree, "jax": jnp.ones((0, 4), jnp.bfloat16)})
    assert restored(tmp_path / "empty", {"a": {}, "b": None}) == ({"a": {}, "b": None}, {})


def test_numbers_and_types_come_back_as_they_are(tmp_path):
    tree = {
        "int": 2**40,
        "float": 0.1,
        "bool": True,
        "complex": 1 + 2j,
        "scalar": np.float32(0.1),
        "wide": np.array([2**40]),
        "half": jnp.ones(3, jnp.bfloat16),
        "four": jnp.arange(3, dtype=jnp.int4),
        "root": jnp.float16(2),
    }
    found, arrays = restored(tmp_path / "c", tree)
    for name, value in tree.items():
        assert type(found[name]) is type(value), name
        np.testing.assert_array_equal(found[name], value)
        assert arrays[name].dtype == np.asarray(value).dtype
        np.testing.assert_array_equal(arrays[name], value)
    found, arrays = restored(tmp_path / "leaf", jnp.arange(3))
    np.testing.assert_array_equal(found, arrays[""])
    with Checkpoints(tmp_path / "leaf") as checkpoints:
        with pytest.raises(ValueError, match=r"is int32\[3\], not float32\[3\]"):
            checkpoints.restore(jnp.ones(3))
        with pytest.raises(ValueError, match="arrays of numbers, got <U3 at 'name'"):
            checkpoints.save(2, {"name": "ssd"})


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_keys_of_every_implementation_come_back_and_are_not_taken_for_others(impl, tmp_path):
    tree = {"one": jax.random.key(3, impl=impl), "many": jax.random.split(jax.random.key(4), 3)}
    like = {"one": jax.random.key(0, impl=impl), "many": jax.random.split(jax.random.key(5), 3)}
    found, arrays = restored(tmp_path / "c", tree, like)
    assert jax.random.key_impl(found["one"]) == impl
    for name, keys in tree.items():
        expected = jax.random.key_data(keys)
        np.testing.assert_array_equal(jax.random.key_data(found[name]), expected)
        np.testing.assert_array_equal(arrays[name], expected)
    assert jax.random.normal(found["one"]) == jax.random.normal(tree["one"])
    other = {"threefry2x32": "rbg", "rbg": "unsafe_rbg", "unsafe_rbg": "threefry2x32"}[impl]
    with Checkpoints(tmp_path / "c") as checkpoints:
        message = rf"holds \['one@{impl}'\] in the place of \['one@{other}'\]"
        with pytest.raises(ValueError, match=message):
            checkpoints.restore({**like, "one": jax.random.key(0, impl=other)})


def test_checkpoints_of_before_names_were_escaped_are_restored(tmp_path):
    tree = {"a.b": jnp.arange(2), "rng": jax.random.key(1), "n": np.zeros(())}
    Checkpoints(tmp_path / "c").__exit__(None)
    with ocp.CheckpointManager(
        tmp_path / "c", item_handlers=ocp.StandardCheckpointHandler()
    ) as manager:
        old = {**tree, "rng": jax.random.key_data(tree["rng"])}
        manager.save(1, args=ocp.args.StandardSave(old))
    with Checkpoints(tmp_path / "c") as checkpoints:
        found = checkpoints.restore({**tree, "rng": jax.random.key(0)})
        assert sorted(checkpoints.load()) == sorted(tree)
    assert jax.random.normal(found.pop("rng")) == jax.random.normal(tree.pop("rng"))
    problems.assert_trees_equal(found, tree)


def test_a_full_disk_is_one_line_and_what_was_complete_is_kept(tmp_path):
    tree = {"x": np.random.default_rng(0).normal(size=20_000)}  # not to be compressed
    with disks.small(tmp_path / "disk", 500_000):
        with pytest.raises(OSError, match="disk/c cannot be written .*No space left") as caught:
            with Checkpoints(tmp_path / "disk" / "c") as checkpoints:
                for step in range(1, 6):
                    checkpoints.save(step, tree)
        assert "\n" not in str(caught.value)
        with Checkpoints(tmp_path / "disk" / "c") as checkpoints:
            assert checkpoints.latest_step() >= 1
            problems.assert_trees_equal(checkpoints.restore(tree), tree)


def test_an_error_inside_is_not_hidden_by_one_of_writing(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path / "c")

    def close():
        raise ValueError("of another thread")

    monkeypatch.setattr(checkpoints._manager, "close", close)
    with pytest.raises(FloatingPointError, match="diverged"):
        with checkpoints:
            raise FloatingPointError("diverged")
    with pytest.raises(OSError, match="c cannot be written .*of another thread"):
        with checkpoints:
            pass


def test_what_a_killed_run_has_half_written_is_no_checkpoint_and_goes(tmp_path):
    half = tmp_path / "c" / "3.orbax-checkpoint-tmp" / "default.orbax-checkpoint-tmp"
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, {"x": jnp.ones(2)})
    half.mkdir(parents=True)
    (half / "d").write_bytes(b"half")
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.latest_step() == 1
        checkpoints.save(2, {"x": 2 * jnp.ones(2)})  # waits for what is cleared away beside it
    assert not half.parent.exists()
    with Checkpoints(tmp_path / "c") as checkpoints:
        np.testing.assert_array_equal(checkpoints.restore({"x": jnp.ones(2)})["x"], 2.0)
