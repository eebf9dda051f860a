import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from unlearnjax import models, tasks, trees

SMALL = {
    "mlp": {},
    "convnet": {"channels": (4, 8), "hidden": 16},
    "convnet_batchnorm": {"channels": (4, 8), "hidden": 16},
    "resnet18": {"stage_sizes": (1, 1), "width": 8},
    "resnet18_groupnorm": {"stage_sizes": (1, 1), "width": 8},
    "vit_tiny": {"width": 24, "depth": 2},
    **{f"vit_{size}": {"width": 48, "depth": 1} for size in ("small", "base", "large")},
}


@pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
@pytest.mark.parametrize("name", models.BY_NAME)
def test_every_model_returns_float32_logits_and_features_per_example(name, dtype):
    model = models.by_name(name, num_classes=7, dtype=dtype, **SMALL[name])
    inputs = jax.random.normal(jax.random.key(0), (3, 16, 16, 3))
    variables = model.init(jax.random.key(1), inputs)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    outputs = model.apply(variables, inputs)
    assert outputs["logits"].shape == (3, 7) and outputs["logits"].dtype == jnp.float32
    assert outputs["features"].ndim == 2 and outputs["features"].dtype == jnp.float32
    # In evaluation mode an example's outputs do not depend on its neighbours.
    alone = model.apply(variables, inputs[1:2])
    tolerance = 1e-4 if dtype is None else 5e-2
    np.testing.assert_allclose(
        alone["logits"][0], outputs["logits"][1], rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize(
    ("name", "shape", "size"),
    [
        # Counted by hand: 320 + 18,496 + 401,536 + 1,290.
        ("convnet", (28, 28, 1), 421_642),
        # A scale and a bias for each of 96 channels in the place of a bias.
        ("convnet_batchnorm", (28, 28, 1), 421_738),
        # torchvision's ResNet-18 with a 3x3 stem and ten classes.
        ("resnet18", (32, 32, 3), 11_173_962),
    ],
)
def test_parameter_counts(name, shape, size):
    model = models.by_name(name, num_classes=10)
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, *shape)))
    assert trees.size(variables["params"]) == size


def test_only_batch_norm_has_running_statistics():
    x = jnp.ones((2, 8, 8, 3))
    for name, collections in (
        ("resnet18", {"params", "batch_stats"}),
        ("resnet18_groupnorm", {"params"}),
        ("convnet", {"params"}),
        ("convnet_batchnorm", {"params", "batch_stats"}),
    ):
        model = models.by_name(name, num_classes=3, **SMALL[name])
        assert set(model.init(jax.random.key(0), x)) == collections


def test_a_normalised_convnet_is_its_formula():
    """One convolution: batch statistics in training, running ones of momentum 0.9 in evaluation."""
    net = models.ConvNet(2, channels=(3,), hidden=4, norm="batch")
    x = jax.random.normal(jax.random.key(0), (6, 4, 4, 1))
    variables = net.init(jax.random.key(1), x)
    conv = models.layers.conv_native(x, variables["params"]["Conv_0"]["kernel"])
    mean, variance = np.mean(conv, (0, 1, 2)), np.var(conv, (0, 1, 2))

    def rest(normal):
        pooled = np.maximum(np.asarray(normal).reshape(6, 2, 2, 2, 2, 3).max((2, 4)), 0)
        dense = variables["params"]["Dense_0"]
        return np.maximum(pooled.reshape(6, -1) @ dense["kernel"] + dense["bias"], 0)

    outputs, updated = net.apply(variables, x, True, mutable=["batch_stats"])
    expected = rest((conv - mean) / np.sqrt(variance + 1e-5))
    np.testing.assert_allclose(outputs["features"], expected, atol=1e-5)
    statistics = updated["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(statistics["mean"], 0.1 * mean, atol=1e-6)
    np.testing.assert_allclose(statistics["var"], 0.9 + 0.1 * variance, atol=1e-6)
    still = rest(np.asarray(conv) / np.sqrt(1 + 1e-5))
    np.testing.assert_allclose(net.apply(variables, x)["features"], still, atol=1e-5)


def test_unknown_names_and_options_are_refused():
    with pytest.raises(ValueError, match=r"'convnet'.*got 'convnett'; did you mean 'convnet'"):
        models.by_name("convnett", num_classes=3)
    with pytest.raises(ValueError, match="'depth' is not an option of model 'mlp'.*hidden"):
        models.by_name("mlp", num_classes=3, depth=3)
    with pytest.raises(ValueError, match="'parent' is not an option of model 'mlp'"):
        models.by_name("mlp", num_classes=3, parent=None)
    with pytest.raises(ValueError, match="model 'mlp' has no argument axis_name, got batch"):
        models.by_name("mlp", num_classes=3, axis_name="batch")
    with pytest.raises(ValueError, match="norm must be 'batch' or 'group', got 'layer'"):
        models.ResNet(3, norm="layer").init(jax.random.key(0), jnp.ones((1, 8, 8, 3)))
    with pytest.raises(ValueError, match="norm must be None or 'batch', got 'group'"):
        models.ConvNet(3, norm="group").init(jax.random.key(0), jnp.ones((1, 8, 8, 3)))
    with pytest.raises(ValueError, match="patch_size must divide"):
        models.ViT(3, patch_size=5).init(jax.random.key(0), jnp.ones((1, 8, 8, 3)))


def test_a_class_of_your_own_is_imported(tmp_path, monkeypatch):
    (tmp_path / "my_models.py").write_text(
        """
import flax.linen as nn
from flax import nnx

class Linen(nn.Module):
    num_classes: int
    width: int = 3
    def setup(self):
        self.layer = nn.Dense(self.num_classes)
    def __call__(self, x, train=False):
        return self.layer(x)

class Nnx(nnx.Module):
    def __init__(self, num_classes, width=3, *, rngs):
        self.a, self.b = nnx.Linear(4, width, rngs=rngs), nnx.Linear(width, num_classes, rngs=rngs)
    def __call__(self, x):
        return self.b(self.a(x))

class NoDefault(nnx.Module):
    def __init__(self, width, rngs):
        pass

def function(num_classes):
    return None
"""
    )
    monkeypatch.syspath_prepend(tmp_path)
    linen = models.by_name("my_models:Linen", num_classes=7, dtype=None, width=5)
    assert (linen.num_classes, linen.width) == (7, 5)
    for name in ("Linen", "Nnx"):
        assert models.default_options(f"my_models:{name}") == {"width": 3}
    module = models.by_name("my_models:Nnx", num_classes=7, width=5)(nnx.Rngs(0))
    assert module.b.kernel.shape == (5, 7)
    task = tasks.classification(tasks.from_nnx(models.by_name("my_models:Nnx", num_classes=7)))
    batch = {"inputs": jnp.ones((2, 4))}
    assert task.apply(task.init(jax.random.key(0), batch), batch, None, False)[0][
        "logits"
    ].shape == (2, 7)
    for name, options, message in (
        ("my_models:Other", {}, "cannot be imported"),
        ("no_such_module:Other", {}, "No module named 'no_such_module'"),
        ("my_models:function", {}, "must be a class of Flax Linen or NNX"),
        ("my_models:NoDefault", {}, "argument 'width' of model 'my_models:NoDefault'"),
        ("my_models:Nnx", {"depth": 2}, "'depth' is not an option"),
        ("my_models:Nnx", {"dtype": jnp.bfloat16}, "has no argument dtype"),
    ):
        with pytest.raises(ValueError, match=message):
            models.by_name(name, **options)
