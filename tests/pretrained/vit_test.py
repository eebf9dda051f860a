import importlib.util
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from scipy import ndimage, special

from unlearnjax import models, pretrained, tasks, training

GOLDEN = Path(__file__).parent / "golden" / "vit"
TINY = {"num_classes": 3, "patch_size": 4, "width": 24, "depth": 2, "num_heads": 3, "pool": "cls"}
PUBLISHED = {**TINY, "exact_gelu": True, "norm_eps": 1e-12}
SMALL = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
KEY = jax.random.key(0)
INTERPOLATED = ("positions/embedding is interpolated to the grid of the images",)


def published(**options):
    return models.ViT(**{**PUBLISHED, **options})


def logits(module, variables, images):
    return np.asarray(module.apply(variables, images)["logits"])


@pytest.fixture(scope="module")
def expected():
    with np.load(GOLDEN / "expected.npz") as stored:
        return dict(stored)


@pytest.fixture(scope="module")
def golden():
    return pretrained.load_model(GOLDEN, published(), SMALL)


def test_logits_equal_those_of_transformers(golden, expected):
    assert golden.notes == ()
    ours = logits(published(), golden.variables, expected["small"])
    # Float32 on both sides; the logits are of size 3.
    np.testing.assert_allclose(ours, expected["small_logits"], atol=2e-5)


@pytest.mark.parametrize(
    "wrong", [{"exact_gelu": False}, {"norm_eps": 1e-2}, {"num_heads": 4}], ids=str
)
def test_options_that_differ_show_in_the_logits_and_are_refused_where_described(
    wrong, golden, expected
):
    module = published(**wrong)
    params = golden.variables["params"]
    like = jax.eval_shape(module.init, KEY, SMALL)["params"]
    params = jax.tree.map(lambda x, shape: x.reshape(shape.shape), params, like)
    ours = logits(module, {"params": params}, expected["small"])
    assert np.abs(ours - expected["small_logits"]).max() > 1e-4
    (option,) = wrong
    with pytest.raises(ValueError, match=f"{option} must fit .*config.json, which has "):
        pretrained.load_model(GOLDEN, module, SMALL)


def test_positions_of_another_grid_are_those_of_transformers(expected):
    images = expected["large"]
    start = pretrained.load_model(GOLDEN, published(), images)
    assert start.notes == INTERPOLATED
    ours = logits(published(), start.variables, images)
    np.testing.assert_allclose(ours, expected["large_logits"], atol=2e-5)


def test_a_classifier_of_other_classes_is_left_out_and_drawn_by_training(golden):
    module = published(num_classes=7)
    start = pretrained.load_model(GOLDEN, module, SMALL)
    assert start.notes == tuple(
        f"Dense_4/{leaf} does not fit the classes and is initialised anew"
        for leaf in ("kernel", "bias")
    )
    rest = {k: v for k, v in golden.variables["params"].items() if k != "Dense_4"}
    jax.tree.map(np.testing.assert_array_equal, start.variables["params"], rest)
    task = tasks.classification(tasks.from_linen(module))
    data = {"inputs": np.zeros((1, 8, 8, 3), np.float32), "targets": np.zeros(1, np.int32)}
    made = [
        training.init_variables(task, data, jax.random.key(seed), start.variables)["params"]
        for seed in (0, 1)
    ]
    heads = [params.pop("Dense_4")["kernel"] for params in made]
    assert heads[0].shape == (24, 7) and (heads[0] != heads[1]).any()
    jax.tree.map(np.testing.assert_array_equal, made[0], rest)


def renamed(path, change, folder):
    """The golden file with the tensors that `change` makes of its own."""
    tensors = pretrained.open_tensors(GOLDEN)
    changed = change({name: tensors.read(name) for name in tensors.shapes})
    pretrained.write_tensors(folder / path, changed)
    return folder / path


def test_keys_without_the_prefix_and_with_a_pooler_are_read_too(tmp_path, golden):
    def bare(tensors):
        pooler = {f"pooler.dense.{leaf}": np.ones(3, np.float32) for leaf in ("weight", "bias")}
        return {name.removeprefix("vit."): t for name, t in tensors.items()} | pooler

    path = renamed("bare.safetensors", bare, tmp_path)
    start = pretrained.load_model(path, published(), SMALL)
    jax.tree.map(np.testing.assert_array_equal, start.variables, golden.variables)


def test_a_file_without_a_classifier_gets_one(tmp_path):
    def headless(tensors):
        return {name: t for name, t in tensors.items() if "classifier" not in name}

    path = renamed("headless.safetensors", headless, tmp_path)
    start = pretrained.load_model(path, published(), SMALL)
    assert len(start.notes) == 3 and "Dense_4" not in start.variables["params"]
    described = "num_heads, norm_eps, exact_gelu: not described in a config.json beside it, taken"
    assert start.notes[0].startswith(described)


def test_saved_it_is_the_published_file_again(tmp_path, golden):
    path = tmp_path / "again.safetensors"
    pretrained.save(path, golden.variables["params"], pretrained.vit.hugging_face(2))
    one, two = pretrained.open_tensors(GOLDEN), pretrained.open_tensors(path)
    assert set(one.shapes) == set(two.shapes)
    for name in one.shapes:
        assert one.read(name).tobytes() == two.read(name).tobytes(), name


def test_a_file_of_another_depth_is_not_written(tmp_path, golden):
    params = golden.variables["params"]
    with pytest.raises(ValueError, match="^params .*"):
        pretrained.save(tmp_path / "x.npz", params, pretrained.vit.hugging_face(5))
    bodies = {name: value for name, value in params.items() if name != "Dense_4"}
    with pytest.raises(ValueError, match="lack what such files have: Dense_4/kernel; Dense_4/bias"):
        pretrained.save(tmp_path / "x.npz", bodies, pretrained.vit.hugging_face(2))
    assert not list(tmp_path.iterdir())


def test_a_model_of_other_depth_pool_patches_or_channels_is_refused():
    for options, message in (
        ({"depth": 3}, "missing vit.encoder.layer.2"),
        ({"depth": 1}, "surplus vit.encoder.layer.1.*; and 11 more"),
        ({"pool": "mean"}, r"surplus vit.embeddings.cls_token"),
        ({"patch_size": 2}, r"projection.weight is \[24, 3, 4, 4\], must be \[24, 3, 2, 2\]"),
        ({"width": 36}, r"cls_token is \[1, 1, 24\], must be \[1, 1, 36\]"),
    ):
        with pytest.raises(ValueError, match=f"^weights .*do not fit: .*{message}"):
            pretrained.load_model(GOLDEN, published(**options), SMALL)
    grey = jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32)
    with pytest.raises(ValueError, match=r"is \[24, 3, 4, 4\], must be \[24, 1, 4, 4\]"):
        pretrained.load_model(GOLDEN, published(), grey)


def test_images_are_resized_in_the_model(golden, expected):
    images = expected["small"]
    large = jax.image.resize(images, (4, 16, 16, 3), "bilinear")
    module = published(image_size=16)
    start = pretrained.load_model(GOLDEN, module, SMALL)
    assert start.notes == INTERPOLATED
    want = logits(published(), start.variables, large)
    np.testing.assert_array_equal(logits(module, start.variables, images), want)


def test_positions_that_are_no_square_grid_are_refused():
    grid, matrix = (2, 2), pretrained.vit.bicubic
    for shape in ((1, 4, 3), (1, 1, 3), (2, 5, 3), (5, 3), (1, 5, 4), (1, 0, 3)):
        with pytest.raises(ValueError, match=r"must be \[1, 1 \+ a square, 3\]"):
            pretrained.vit.resized(np.zeros(shape), (1, 5, 3), grid, matrix)
    same = np.zeros((1, 5, 3))
    assert pretrained.vit.resized(same, (1, 5, 3), grid, matrix) is same
    turned = pretrained.vit.resized(same, (1, 5, 3), (4, 1), matrix)  # as many, elsewhere
    assert turned is not same


@pytest.mark.parametrize(("old", "new"), [(4, 7), (7, 4), (3, 1), (1, 3), (2, 2)])
def test_linear_interpolation_is_that_of_scipy(old, new):
    values = np.random.default_rng(0).standard_normal(old).astype(np.float32)
    want = ndimage.zoom(values, new / old, order=1)
    np.testing.assert_allclose(pretrained.vit.corners_kept(new, old) @ values, want, atol=1e-6)


def test_cubic_interpolation_of_a_delta_by_hand():
    # Twice as fine: a quarter and three quarters between, A = -0.75, one pixel's row of weights.
    a = -0.75
    near = lambda x: (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = lambda x: a * (x**3 - 5 * x**2 + 8 * x - 4)
    want = [far(1.75), far(1.25), near(0.75), near(0.25), near(0.25), near(0.75), far(1.25)]
    column = pretrained.vit.bicubic(16, 8)[:, 4]  # far from the border; its centre is at 9 of 16
    np.testing.assert_allclose(column[5:12], want, atol=1e-6)
    np.testing.assert_allclose(pretrained.vit.bicubic(5, 3).sum(axis=1), 1, atol=1e-6)


def augreg_arrays(rng, *, width=24, depth=2, heads=3, classes=3, patch=4, tokens=5):
    """Random weights in the layout of vit_jax."""
    size = width // heads

    def some(*shape):
        return rng.standard_normal(shape).astype(np.float32) * 0.2

    arrays = {
        "cls": some(1, 1, width),
        "embedding/kernel": some(patch, patch, 3, width),
        "embedding/bias": some(width),
        "Transformer/posembed_input/pos_embedding": some(1, tokens, width),
        "Transformer/encoder_norm/scale": 1 + some(width),
        "Transformer/encoder_norm/bias": some(width),
        "head/kernel": some(width, classes),
        "head/bias": some(classes),
    }
    for i in range(depth):
        block = f"Transformer/encoderblock_{i}/"
        for norm in ("LayerNorm_0", "LayerNorm_2"):
            arrays[f"{block}{norm}/scale"] = 1 + some(width)
            arrays[f"{block}{norm}/bias"] = some(width)
        attention = f"{block}MultiHeadDotProductAttention_1/"
        for name in ("query", "key", "value"):
            arrays[f"{attention}{name}/kernel"] = some(width, heads, size)
            arrays[f"{attention}{name}/bias"] = some(heads, size)
        arrays[f"{attention}out/kernel"] = some(heads, size, width)
        arrays[f"{attention}out/bias"] = some(width)
        arrays[f"{block}MlpBlock_3/Dense_0/kernel"] = some(width, 4 * width)
        arrays[f"{block}MlpBlock_3/Dense_0/bias"] = some(4 * width)
        arrays[f"{block}MlpBlock_3/Dense_1/kernel"] = some(4 * width, width)
        arrays[f"{block}MlpBlock_3/Dense_1/bias"] = some(width)
    return arrays


def augreg_forward(arrays, images, depth=2):
    """The model of vit_jax in NumPy, one patch, head and token after another, in float64."""
    w = {name: value.astype(np.float64) for name, value in arrays.items()}

    def norm(x, name):
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
        return scaled * w[f"{name}/scale"] + w[f"{name}/bias"]

    def gelu(x):
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    kernel = w["embedding/kernel"]
    patch = kernel.shape[0]
    results = []
    for image in images.astype(np.float64):
        rows, columns = image.shape[0] // patch, image.shape[1] // patch
        tokens = [w["cls"][0, 0]]
        for i in range(rows):
            for j in range(columns):
                part = image[i * patch : (i + 1) * patch, j * patch : (j + 1) * patch]
                tokens.append(np.einsum("abc,abcd->d", part, kernel) + w["embedding/bias"])
        x = np.stack(tokens) + w["Transformer/posembed_input/pos_embedding"][0]
        for block in (f"Transformer/encoderblock_{i}" for i in range(depth)):
            y = norm(x, f"{block}/LayerNorm_0")
            attention = f"{block}/MultiHeadDotProductAttention_1"
            out = w[f"{attention}/out/bias"]
            for head in range(w[f"{attention}/out/kernel"].shape[0]):
                q, k, v = (
                    y @ w[f"{attention}/{name}/kernel"][:, head]
                    + w[f"{attention}/{name}/bias"][head]
                    for name in ("query", "key", "value")
                )
                weights = special.softmax(q @ k.T / np.sqrt(q.shape[-1]), axis=-1)
                out = out + weights @ v @ w[f"{attention}/out/kernel"][head]
            x = x + out
            y = norm(x, f"{block}/LayerNorm_2")
            dense = f"{block}/MlpBlock_3/Dense"
            y = gelu(y @ w[f"{dense}_0/kernel"] + w[f"{dense}_0/bias"])
            x = x + y @ w[f"{dense}_1/kernel"] + w[f"{dense}_1/bias"]
        x = norm(x, "Transformer/encoder_norm")
        results.append(x[0] @ w["head/kernel"] + w["head/bias"])
    return np.stack(results)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    path = tmp_path_factory.mktemp("augreg") / "tiny.npz"
    np.savez(path, **augreg_arrays(np.random.default_rng(1)))
    return path


def test_archives_of_vit_jax_equal_a_forward_in_numpy(archive, expected, tmp_path):
    module = models.ViT(**TINY)
    start = pretrained.load_model(archive, module, SMALL)
    arrays = dict(np.load(archive))
    want = augreg_forward(arrays, expected["small"])
    ours = logits(module, start.variables, expected["small"])
    np.testing.assert_allclose(ours, want, atol=2e-5)
    pretrained.save(tmp_path / "again.npz", start.variables["params"], pretrained.vit.augreg(2))
    again = np.load(tmp_path / "again.npz", allow_pickle=False)
    assert set(again.files) == set(arrays)
    for name, array in arrays.items():
        assert again[name].tobytes() == array.tobytes(), name


@pytest.mark.parametrize("wrong", [{"exact_gelu": True}, {"norm_eps": 1e-12}], ids=str)
def test_archives_of_vit_jax_are_refused_by_models_of_other_options(wrong, archive):
    match = "tiny.npz were trained with exact_gelu=False and norm_eps=1e-6, the model has"
    with pytest.raises(ValueError, match=match):
        pretrained.load_model(archive, models.ViT(**{**TINY, **wrong}), SMALL)


def test_positions_of_archives_are_interpolated_as_vit_jax_does(archive):
    images = jax.ShapeDtypeStruct((1, 12, 16, 3), jnp.float32)
    start = pretrained.load_model(archive, models.ViT(**TINY), images)
    stored = np.load(archive)["Transformer/posembed_input/pos_embedding"]
    grid = ndimage.zoom(stored[0, 1:].reshape(2, 2, 24), (3 / 2, 4 / 2, 1), order=1)
    want = np.concatenate([stored[:, :1], grid.reshape(1, 12, 24)], axis=1)
    ours = start.variables["params"]["positions"]["embedding"]
    np.testing.assert_allclose(ours, want, atol=1e-6)


@pytest.mark.slow
def test_transformers_read_what_is_saved_and_compute_the_same(tmp_path, expected):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    spec = importlib.util.spec_from_file_location("golden", GOLDEN.parents[1] / "make_golden.py")
    golden = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(golden)
    module = published()
    golden.vit(seed=1).save_pretrained(tmp_path / "theirs")
    start = pretrained.load_model(tmp_path / "theirs", module, SMALL)
    moved = jax.tree.map(lambda x: x * 1.1, start.variables)
    (tmp_path / "ours").mkdir()
    shutil.copy(GOLDEN / "config.json", tmp_path / "ours")
    path = tmp_path / "ours" / "model.safetensors"
    pretrained.save(path, moved["params"], pretrained.vit.hugging_face(2))
    reloaded = golden.transformers.ViTForImageClassification.from_pretrained(path.parent).eval()
    for variables, model in ((start.variables, golden.vit(seed=1)), (moved, reloaded)):
        theirs = golden.outputs(model, expected["small"])
        np.testing.assert_allclose(logits(module, variables, expected["small"]), theirs, atol=5e-5)


@pytest.mark.slow
def test_the_published_sizes_have_the_published_numbers_of_parameters():
    # As Dosovitskiy et al. and Steiner et al. state them, in millions, with 1000 classes at 224.
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    for name, millions in (("vit_small", 22.05), ("vit_base", 86.57), ("vit_large", 304.33)):
        module = models.by_name(name, num_classes=1000)
        variables = jax.eval_shape(module.init, KEY, images)
        flat = traverse_util.flatten_dict(variables["params"])
        assert round(sum(x.size for x in flat.values()) / 1e6, 2) == millions
        assert (module.pool, module.exact_gelu, module.norm_eps) == ("cls", True, 1e-12)


def test_the_description_beside_a_file_may_leave_things_out(tmp_path):
    shutil.copy(GOLDEN / "model.safetensors", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    notes = pretrained.load_model(tmp_path, published(), SMALL).notes
    assert len(notes) == 1 and notes[0].startswith("num_heads, norm_eps, exact_gelu: not desc")
    for text in (b"5", b"[]", b"{ not json", b"\xff\xfe", b""):
        (tmp_path / "config.json").write_bytes(text)
        with pytest.raises(ValueError, match="^weights .*config.json cannot be read: .*") as bad:
            pretrained.load_model(tmp_path, published(), SMALL)
        assert "\n" not in str(bad.value)
    for name in ("gelu_new", "gelu_pytorch_tanh"):  # two names of the same
        (tmp_path / "config.json").write_text(json.dumps({"hidden_act": name}))
        pretrained.load_model(tmp_path, published(exact_gelu=False), SMALL)
