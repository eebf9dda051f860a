import sys
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from experiments.benchmarks import weights
from unlearnjax import parallel, pretrained
from unlearnjax.pretrained import mapping
from unlearnjax.pretrained.mapping import KeyMap, Layout, Rule

RNG = np.random.default_rng(0)
# A family like GPT-2's: three matrices in one tensor, columns beside each other.
FUSED = Layout(
    lambda stored, *shapes: tuple(np.split(stored, len(shapes), axis=1)),
    lambda *ours: jnp.concatenate(ours, axis=1),
)
MAP = KeyMap(
    (
        Rule("embed/table", "wte"),
        *mapping.repeated(
            [
                Rule(("block_{i}/q", "block_{i}/k", "block_{i}/v"), "h.{i}.qkv", FUSED),
                Rule("block_{i}/out/kernel", "h.{i}.proj", mapping.LINEAR),
            ],
            2,
        ),
        Rule("head/kernel", "head.weight", mapping.LINEAR),
        Rule("head/bias", "head.bias"),
    ),
    prefix="model.",
    ignored=(r"h\.\d+\.mask",),
)
HEAD = ("head/kernel", "head/bias")


def params(dtype=np.float32):
    def some(*shape):
        return RNG.standard_normal(shape).astype(dtype)

    block = lambda: {**{name: some(4, 4) for name in "qkv"}, "out": {"kernel": some(4, 6)}}
    return {
        "embed": {"table": some(5, 4)},
        "block_0": block(),
        "block_1": block(),
        "head": {"kernel": some(4, 3), "bias": some(3)},
    }


def shapes(tree):
    return jax.eval_shape(lambda: jax.tree.map(jnp.asarray, tree))


def stored_of(tree):
    """What `MAP` makes of it, worked out by hand."""
    blocks = {}
    for i in range(2):
        block = tree[f"block_{i}"]
        blocks[f"h.{i}.qkv"] = np.hstack([block["q"], block["k"], block["v"]])
        blocks[f"h.{i}.proj"] = block["out"]["kernel"].T
    head = {"head.weight": tree["head"]["kernel"].T, "head.bias": tree["head"]["bias"]}
    return {"wte": tree["embed"]["table"], **blocks, **head}


def load(tensors, tree, tmp_path, **options):
    pretrained.write_tensors(tmp_path / "given.npz", tensors)
    return pretrained.load(tmp_path / "given.npz", shapes(tree), MAP, **options)


def equal(one, two):
    jax.tree.map(np.testing.assert_array_equal, one, two)


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.float16])
def test_what_is_saved_is_loaded_and_the_file_as_it_should_be(dtype, tmp_path):
    tree = params(dtype)
    path = tmp_path / "model.safetensors"
    pretrained.save(path, tree, MAP)
    stored = pretrained.open_tensors(path)
    expected = stored_of(tree)
    assert set(stored.shapes) == set(expected)
    for name, tensor in expected.items():
        assert stored.read(name).tobytes() == np.asarray(tensor, order="C").tobytes(), name
    loaded = pretrained.load(path, shapes(tree), MAP)
    assert (loaded.fresh, loaded.resized) == ((), ())
    equal(loaded.params, tree)
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded.params)} == {jnp.dtype(dtype)}


def test_floating_types_become_those_asked_for_and_others_never(tmp_path):
    tree = params()
    double = {name: tensor.astype(np.float64) for name, tensor in stored_of(tree).items()}
    equal(load(double, tree, tmp_path).params, tree)
    narrow = {name: tensor.astype(jnp.bfloat16) for name, tensor in double.items()}
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(np.float32), tree)
    equal(load(narrow, tree, tmp_path).params, rounded)
    whole = stored_of(tree) | {"wte": np.zeros((5, 4), np.int32)}
    with pytest.raises(ValueError, match="wte is of type int32, must be float32"):
        load(whole, tree, tmp_path)


def test_a_prefix_may_be_missing_in_the_file_and_is_never_written_twice(tmp_path):
    tree = params()
    key_map = MAP._replace(rules=tuple(r._replace(key=f"model.{r.key}") for r in MAP.rules))
    pretrained.save(tmp_path / "long.npz", tree, key_map)
    assert all(name.startswith("model.") for name in np.load(tmp_path / "long.npz").files)
    pretrained.save(tmp_path / "short.npz", tree, MAP)
    for name in ("long.npz", "short.npz"):
        equal(pretrained.load(tmp_path / name, shapes(tree), key_map).params, tree)
    both = dict(np.load(tmp_path / "long.npz")) | {"wte": tree["embed"]["table"]}
    pretrained.write_tensors(tmp_path / "both.npz", both)
    with pytest.raises(ValueError, match=r"do not fit: model.wte and wte are the same"):
        pretrained.load(tmp_path / "both.npz", shapes(tree), key_map)


def test_each_misfit_is_named_and_nothing_is_read(tmp_path):
    tree = params()
    good = stored_of(tree)
    cases = {
        "missing h.1.qkv": {n: t for n, t in good.items() if n != "h.1.qkv"},
        "surplus h.0.extra": good | {"h.0.extra": np.zeros(1)},
        r"h.0.proj is \[4, 6\], must be \[6, 4\]": good | {"h.0.proj": good["h.0.proj"].T},
        r"h.0.qkv is \[4, 8\], must be \[4, 12\]": good | {"h.0.qkv": good["h.0.qkv"][:, :8]},
        r"wte is \[20\], must be \[5, 4\]": good | {"wte": good["wte"].reshape(-1)},
        r"head.bias is \[4\], must be \[3\]": good | {"head.bias": np.zeros(4, np.float32)},
        "missing head.weight": {n: t for n, t in good.items() if n != "head.weight"},
    }

    def no_reading(name):
        raise AssertionError(f"{name} was read")

    for message, tensors in cases.items():
        pretrained.write_tensors(tmp_path / "wrong.npz", tensors)
        source = pretrained.open_tensors(tmp_path / "wrong.npz")._replace(read=no_reading)
        with pytest.raises(ValueError, match=rf"^weights .*wrong.npz do not fit: {message}$"):
            pretrained.load(source, shapes(tree), MAP)


def test_the_first_five_of_many_misfits_are_named(tmp_path):
    with pytest.raises(ValueError) as refused:
        load({}, params(), tmp_path)
    message = str(refused.value)
    assert message.endswith("missing wte; missing h.0.qkv; missing h.0.proj; missing h.1.qkv; "
                            "missing h.1.proj; and 2 more")  # fmt: skip
    five = {name: t for name, t in stored_of(params()).items() if name.startswith("head")}
    with pytest.raises(ValueError, match="missing h.1.proj$"):
        load(five, params(), tmp_path)


def test_parameters_without_a_rule_are_refused_in_both_directions(tmp_path):
    tree = params()
    more = {**tree, "scale": np.ones(2, np.float32)}
    with pytest.raises(ValueError, match="do not fit: the model's scale has no place in such"):
        load(stored_of(tree), more, tmp_path)
    with pytest.raises(ValueError, match="^params have no place in such files: scale$"):
        pretrained.save(tmp_path / "no.npz", more, MAP)
    # Where the model lacks a part of what is one in the file, it has no place for it.
    del tree["block_1"]["v"]
    with pytest.raises(ValueError, match="surplus h.1.qkv; the model's block_1/k has no place"):
        load(stored_of(params()), tree, tmp_path)


def test_only_what_is_declared_is_ignored(tmp_path):
    tree = params()
    tensors = stored_of(tree) | {"h.0.mask": np.zeros(1), "h.1.mask": np.zeros(1)}
    equal(load(tensors, tree, tmp_path).params, tree)
    tensors |= {"h.0.mask.more": np.zeros(1)}
    with pytest.raises(ValueError, match="do not fit: surplus h.0.mask.more$"):
        load(tensors, tree, tmp_path)
    equal(load(tensors, tree, tmp_path, ignored=[r".*\.more"]).params, tree)


def test_a_replaceable_head_is_left_out_as_a_whole(tmp_path):
    tree = params()
    good = stored_of(tree)
    headless = {name: value for name, value in tree.items() if name != "head"}
    for change in (
        good | {"head.weight": np.zeros((7, 4), np.float32)},
        {name: tensor for name, tensor in good.items() if not name.startswith("head")},
    ):
        if "head.weight" in change:
            change["head.bias"] = np.zeros(7, np.float32)
        loaded = load(change, tree, tmp_path, replaceable=HEAD)
        assert loaded.fresh == HEAD
        equal(loaded.params, headless)
    fits = load(good, tree, tmp_path, replaceable=HEAD)
    assert fits.fresh == ()
    equal(fits.params, tree)
    body = {name: t for name, t in good.items() if not name.startswith("head")}
    with pytest.raises(ValueError, match="missing wte$"):  # the rest is still asked for
        load({n: t for n, t in body.items() if n != "wte"}, tree, tmp_path, replaceable=HEAD)
    seven = {"head.weight": np.zeros((7, 4), np.float32), "head.bias": np.zeros(7, np.float32)}
    for message, head in {
        "missing head.bias": {"head.weight": good["head.weight"]},
        r"head.weight is \[3, 2\], must be": good | {"head.weight": good["head.weight"][:, :2]},
        r"head.weight is \[7, 2\], must be": seven | {"head.weight": seven["head.weight"][:, :2]},
        r"head.bias is \[8\], must be": seven | {"head.bias": np.zeros(8, np.float32)},
        "head.bias is of type int32, must": seven | {"head.bias": np.zeros(7, np.int32)},
    }.items():
        with pytest.raises(ValueError, match=f"do not fit: .*{message}"):
            load(body | head, tree, tmp_path, replaceable=HEAD)


def test_what_is_saved_is_whole(tmp_path):
    tree, path = params(), tmp_path / "part.npz"
    headless = {name: value for name, value in tree.items() if name != "head"}
    with pytest.raises(ValueError, match="^params lack .* have: head/kernel; head/bias$"):
        pretrained.save(path, headless, MAP)
    half = headless | {"head": {"kernel": tree["head"]["kernel"]}}
    with pytest.raises(ValueError, match="^params lack .* have: head/bias$"):
        pretrained.save(path, half, MAP, replaceable=HEAD)
    more = MAP._replace(rules=(*MAP.rules, *(Rule(f"more/{i}", f"more.{i}") for i in range(6))))
    with pytest.raises(ValueError, match="have: more/0; .*; more/4; and 1 more$"):
        pretrained.save(path, tree, more)
    assert not path.exists()
    pretrained.save(path, headless, MAP, replaceable=HEAD)
    assert set(np.load(path).files) == {n for n in stored_of(tree) if not n.startswith("head")}
    pretrained.save(path, tree, MAP, replaceable=HEAD)
    assert set(np.load(path).files) == set(stored_of(tree))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_weights_that_are_not_finite_are_refused(bad, tmp_path):
    tree = params()
    tensors = {name: t.astype(np.float64) for name, t in stored_of(tree).items()}
    tensors["h.1.proj"][2, 3] = bad  # the last, in float64 alone a number
    with pytest.raises(ValueError, match=r"^weights .*given.npz: h.1.proj must be finite"):
        load(tensors, tree, tmp_path)


def test_what_may_be_resized_is_and_says_so(tmp_path):
    tree = params()

    def cut(stored, shape):
        if len(stored) < shape[0]:
            raise ValueError("is too short")
        return stored if stored.shape == shape else stored[: shape[0]]

    good = stored_of(tree)
    resize = {"embed/table": cut}
    loaded = load(good, tree, tmp_path, resize=resize)
    assert loaded.resized == ()
    equal(loaded.params, tree)
    longer = good | {"wte": np.vstack([good["wte"], np.ones((2, 4), np.float32)])}
    loaded = load(longer, tree, tmp_path, resize=resize)
    assert loaded.resized == ("embed/table",)
    equal(loaded.params, tree)
    with pytest.raises(ValueError, match=r"do not fit: wte \[2, 4\]: is too short$"):
        load(good | {"wte": good["wte"][:2]}, tree, tmp_path, resize=resize)
    with pytest.raises(ValueError, match=r"do not fit: wte is \[5, 3\], must be \[5, 4\]$"):
        load(good | {"wte": good["wte"][:, :3]}, tree, tmp_path, resize=resize)


def test_tensors_go_to_the_shardings_of_what_they_are_for(tmp_path):
    tree = params()
    mesh = parallel.mesh(jax.devices()[:2])
    halves = NamedSharding(mesh, PartitionSpec("data"))
    everywhere = NamedSharding(mesh, PartitionSpec())
    where = jax.tree.map(lambda x: halves if len(x) % 2 == 0 else everywhere, tree)
    like = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, where
    )
    pretrained.write_tensors(tmp_path / "given.npz", stored_of(tree))
    loaded = pretrained.load(tmp_path / "given.npz", like, MAP).params
    equal(loaded, tree)
    jax.tree.map(lambda x, s: x.sharding == s or pytest.fail(f"{x.sharding}"), loaded, where)
    # Saved from there, it is whole again; an array tells its own place, too.
    pretrained.save(tmp_path / "again.npz", loaded, MAP)
    again = pretrained.load(tmp_path / "again.npz", loaded, MAP).params
    jax.tree.map(lambda x, s: x.sharding == s or pytest.fail(f"{x.sharding}"), again, where)
    equal(again, tree)


LAYOUTS = {
    # Stored by PyTorch, ours, as written out entry by entry.
    "LINEAR": ((2, 3), (3, 2), lambda s, i, j: s[j, i]),
    "CONVOLUTION": ((2, 3, 4, 5), (4, 5, 3, 2), lambda s, a, b, c, d: s[d, c, a, b]),
    "TO_HEADS": ((6, 4), (4, 3, 2), lambda s, i, h, k: s[2 * h + k, i]),
    "FROM_HEADS": ((4, 6), (3, 2, 4), lambda s, h, k, o: s[o, 2 * h + k]),
    "FLAT": ((6,), (3, 2), lambda s, h, k: s[2 * h + k]),
    "AS_IS": ((2, 3), (2, 3), lambda s, i, j: s[i, j]),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_entry_by_entry(name):
    stored_shape, shape, entry = LAYOUTS[name]
    layout = getattr(mapping, name)
    stored = RNG.standard_normal(stored_shape)
    ours = layout.load(stored, shape)
    assert ours.shape == shape
    for place in np.ndindex(shape):
        assert ours[place] == entry(stored, *place)
    np.testing.assert_array_equal(layout.save(ours), stored)


@pytest.mark.parametrize("layout", [mapping.LINEAR, mapping.TO_HEADS])
def test_each_tensor_is_let_go_before_the_next_is_read(layout, tmp_path):
    shape = (40, 30) if layout is mapping.LINEAR else (40, 3, 10)
    rules = tuple(Rule(f"m_{i}/kernel", f"m.{i}", layout) for i in range(4))
    tree = {f"m_{i}": {"kernel": np.full(shape, i, np.float32)} for i in range(4)}
    pretrained.save(tmp_path / "model.safetensors", tree, KeyMap(rules))
    source, alive = pretrained.open_tensors(tmp_path / "model.safetensors"), []

    def read(name):
        assert [ref for ref in alive if ref() is not None] == []
        stored = source.read(name)
        alive.append(weakref.ref(stored))
        return stored

    loaded = pretrained.load(source._replace(read=read), shapes(tree), KeyMap(rules))
    equal(loaded.params, tree)
    assert len(alive) == 4


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read as Linux tells it")
def test_the_host_holds_a_tensor_beside_what_is_placed(tmp_path):
    (record,) = weights.run(repeats=1)  # ViT-B/16 of 346 MB
    beside = record["largest_tensors"]
    assert beside["tensor by tensor"] < 1.2
    assert beside["the whole file"] > 30  # it would show
