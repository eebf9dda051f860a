"""Hidden activations of Linen, NNX and plain models: seen, changed, and otherwise left alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from tests import problems
from tests.hooked import BATCH, NAMES, TASKS, VARIABLES, C, D, H, LinenNet, N, identity, own_init
from unlearnjax import curvature, tasks, training
from unlearnjax.tasks import hooks


def applied(task, variables, batch=BATCH):
    return task.apply(variables, batch, None, False)[0]


@pytest.mark.parametrize("name", TASKS)
def test_identity_edits_and_captures_change_nothing(name):
    """Under jit, grad, vmap and remat: outputs, updated variables and gradients, bit for bit."""

    def compute(task):
        def loss(params, variables):
            apply = jax.checkpoint(lambda v: task.apply(v, BATCH, jax.random.key(3), True))
            outputs, updated = apply({**variables, "params": params})
            rest = {k: v for k, v in outputs.items() if not k.startswith(hooks.HIDDEN)}
            return task.loss(outputs, BATCH).sum(), (rest, updated)

        one = lambda v: jax.value_and_grad(loss, has_aux=True)(v["params"], v)
        both = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), VARIABLES[name])
        return jax.jit(jax.vmap(one))(both)

    task, names = TASKS[name], NAMES[name]
    hooked = tasks.edit(tasks.capture(task, names), dict.fromkeys(names, identity))
    problems.assert_trees_equal(compute(hooked), compute(task))


def test_linen_activations_are_those_that_flax_captures():
    variables = VARIABLES["linen"]
    _, state = LinenNet().apply(variables, BATCH["inputs"], capture_intermediates=True)
    found = applied(tasks.capture(TASKS["linen"], NAMES["linen"]), variables)
    for name in NAMES["linen"]:
        expected = state["intermediates"]
        for part in name.split("."):
            expected = expected[part]
        np.testing.assert_allclose(found[f"hidden.{name}"], expected["__call__"][0], rtol=1e-6)


def test_a_star_means_every_layer_of_such_a_name():
    found = lambda *where: {
        name.removeprefix("hidden.")
        for name in applied(tasks.capture(TASKS["linen"], where), VARIABLES["linen"])
        if name.startswith("hidden.")
    }
    dense = {name for name in found("*") if name.endswith(".Dense_0")}
    assert len(dense) > 1 and found("*.Dense_0") == dense
    one = sorted(dense)[0]
    assert found(one, "*.Dense_0") == dense and found("*" + one[1:]) == {one}
    with pytest.raises(ValueError, match=r"where must name layers .* got '\*.Dense_7'"):
        found("*.Dense_7")


def test_nnx_activations_are_those_of_its_parts():
    params = VARIABLES["nnx"]["params"]
    found = applied(tasks.capture(TASKS["nnx"], ("first", "inner.linear")), VARIABLES["nnx"])
    first = BATCH["inputs"] @ params["first"]["kernel"] + params["first"]["bias"]
    linear = first @ params["inner"]["linear"]["kernel"] + params["inner"]["linear"]["bias"]
    np.testing.assert_allclose(found["hidden.first"], first, rtol=1e-5)
    np.testing.assert_allclose(found["hidden.inner.linear"], linear, rtol=1e-5, atol=1e-6)


def test_tapped_activations_of_inner_programs():
    w = {k: np.asarray(v, np.float64) for k, v in VARIABLES["own"]["params"].items()}
    x = np.asarray(BATCH["inputs"], np.float64) @ w["first"]
    expected = {"block": np.tanh(x @ w["w"])}
    expected["middle"] = np.sin(expected["block"] @ w["w"])
    turns = [expected["middle"]]
    for _ in range(2):
        turns.append(np.tanh(turns[-1] @ w["w"]))
    expected["turn"] = np.stack(turns[1:])  # all turns of a loop
    found = applied(tasks.capture(TASKS["own"], tuple(expected)), VARIABLES["own"])
    for name, value in expected.items():
        np.testing.assert_allclose(found[f"hidden.{name}"], value, rtol=1e-4, atol=1e-5)


def test_an_edit_in_a_loop_acts_at_every_turn():
    edited = tasks.edit(TASKS["own"], {"turn": lambda h, batch: h + batch["targets"][:, None]})
    params = VARIABLES["own"]["params"]
    x = applied(tasks.capture(TASKS["own"], ("middle",)), VARIABLES["own"])["hidden.middle"]
    sums = []
    for _ in range(2):
        x = jnp.tanh(x @ params["w"]) + BATCH["targets"][:, None]
        sums.append(x.sum())
    found = applied(edited, VARIABLES["own"])
    np.testing.assert_allclose(found["features"], x, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["logits"], x[:, :C] + sums[0], rtol=1e-5, atol=1e-5)


def silenced(name, layer):
    """The model without a layer: its parameters are 0, and so is what it returns."""
    params = jax.tree.map(lambda x: x, VARIABLES[name]["params"])
    at = params
    *path, last = layer.split(".")
    for part in path:
        at = at[part]
    at[last] = jax.tree.map(jnp.zeros_like, at[last])
    return {**VARIABLES[name], "params": params}


@pytest.mark.parametrize(
    ("name", "layer"),
    [("linen", "block_1.Dense_0"), ("nnx", "inner.linear"), ("own", "first")],
)
def test_an_edit_reaches_evaluation_gradients_and_curvature(name, layer):
    """A layer edited to 0 is one whose parameters are 0; the latter's other gradients agree."""
    edited = tasks.edit(TASKS[name], {layer: lambda h, batch: 0 * h})
    without = silenced(name, layer)
    expected = training.evaluate(TASKS[name], without, BATCH)
    found = training.evaluate(edited, VARIABLES[name], BATCH)
    problems.assert_trees_close(found, expected, rtol=1e-6)
    plain = training.evaluate(TASKS[name], VARIABLES[name], BATCH)
    assert jnp.abs(found["loss"] - plain["loss"]).max() > 0.01
    fisher = curvature.fisher_diagonal(edited, VARIABLES[name], BATCH)
    out = {"linen": "out", "nnx": "out", "own": "w"}[name]
    expected = curvature.fisher_diagonal(TASKS[name], without, BATCH)
    problems.assert_trees_close(fisher[out], expected[out], rtol=1e-5)


@pytest.mark.parametrize("name", TASKS)
def test_what_is_captured_is_what_is_edited_whichever_comes_first(name):
    layer, add = NAMES[name][1], {NAMES[name][1]: lambda h, batch: h + 1}
    one, other = (
        tasks.capture(tasks.edit(TASKS[name], add), (layer,)),
        tasks.edit(tasks.capture(TASKS[name], (layer,)), add),
    )
    plain = applied(tasks.capture(TASKS[name], (layer,)), VARIABLES[name])[f"hidden.{layer}"]
    for task in (one, other):
        found = applied(task, VARIABLES[name])[f"hidden.{layer}"]
        np.testing.assert_allclose(found, plain + 1, rtol=1e-6)
    twice = tasks.edit(tasks.edit(TASKS[name], add), {layer: lambda h, batch: 3 * h})
    found = applied(tasks.capture(twice, (layer,)), VARIABLES[name])[f"hidden.{layer}"]
    np.testing.assert_allclose(found, 3 * (plain + 1), rtol=1e-6)  # the inner one first


@pytest.mark.parametrize("name", TASKS)
def test_programs_that_jax_keeps_are_nobody_elses(name):
    """Of remat, jit and scan: the model after a hooked call, and the next edit, are their own."""
    layer = {"linen": "block_1.Dense_0", "nnx": "inner.linear", "own": "block"}[name]
    before = applied(TASKS[name], VARIABLES[name])["logits"]
    edits = [{layer: lambda h, batch, k=k: h + k} for k in (0.0, 1.0, -1.0)]
    found = [applied(tasks.edit(TASKS[name], e), VARIABLES[name])["logits"] for e in edits]
    np.testing.assert_array_equal(found[0], before)
    np.testing.assert_array_equal(applied(TASKS[name], VARIABLES[name])["logits"], before)
    gaps = [jnp.abs(a - b).max() for a, b in zip(found, [*found[1:], found[0]], strict=True)]
    assert min(gaps) > 1e-3


@pytest.mark.parametrize("keep", [jax.jit, jax.checkpoint])
@pytest.mark.parametrize("library", ["linen", "nnx"])
def test_a_program_that_was_kept_without_hooks_is_not_taken_for_a_hooked_one(keep, library):
    """Of two calls of a layer, one inside of what jax keeps: both are edited, both are plain."""
    model = TASKS[library]
    inner = keep(lambda variables, x: model.apply(variables, {"inputs": x}, None, False)[0])

    def apply(variables, batch, rng, train):
        kept, own = inner(variables, batch["inputs"]), model.apply(variables, batch, rng, train)[0]
        return {"logits": kept["logits"] + own["logits"]}, variables

    task, variables = model._replace(apply=apply), VARIABLES[library]
    silent = tasks.edit(task, {"out": lambda h, batch: 0 * h})
    plain = applied(task, variables)["logits"]
    np.testing.assert_array_equal(applied(silent, variables)["logits"], 0 * plain)
    assert "tap" not in str(jax.make_jaxpr(lambda: applied(task, variables))())
    np.testing.assert_array_equal(applied(task, variables)["logits"], plain)
    np.testing.assert_array_equal(applied(silent, variables)["logits"], 0 * plain)


def test_what_jax_keeps_is_hooked_though_it_was_computed_before():
    """A layer of a kept program alone, whose name is found after a plain call, too."""
    inner = jax.jit(lambda variables, x: LinenNet().apply(variables, x))
    apply = lambda v, batch, rng, train: (inner(v, batch["inputs"]), v)
    task, variables = TASKS["linen"]._replace(apply=apply), VARIABLES["linen"]
    applied(task, variables)
    found = applied(tasks.capture(task, NAMES["linen"]), variables)
    expected = applied(tasks.capture(TASKS["linen"], NAMES["linen"]), variables)
    problems.assert_trees_close(found, expected, rtol=1e-6)


def test_a_layer_called_twice_is_edited_twice_and_captured_last():
    class Shared(nn.Module):
        @nn.compact
        def __call__(self, inputs, train=False):
            layer = nn.Dense(D, name="shared")
            return layer(layer(inputs))

    task = tasks.classification(tasks.from_linen(Shared()))
    variables = task.init(jax.random.key(0), BATCH)
    own = variables["params"]["shared"]
    layer = lambda x: x @ own["kernel"] + own["bias"]
    task = tasks.capture(tasks.edit(task, {"shared": lambda h, batch: h + 1}), ("shared",))
    found = applied(task, variables)
    expected = layer(layer(BATCH["inputs"]) + 1) + 1
    np.testing.assert_allclose(found["logits"], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found["hidden.shared"], found["logits"])


def test_other_methods_of_a_layer_are_no_activations_of_it():
    class Tied(nn.Module):
        @nn.compact
        def __call__(self, inputs, train=False):
            table = nn.Embed(C, D, name="table")
            return table.attend(inputs + table(jnp.zeros(N, jnp.int32)))

    task = tasks.classification(tasks.from_linen(Tied()))
    variables = task.init(jax.random.key(0), BATCH)
    table = variables["params"]["table"]["embedding"]
    found = applied(tasks.edit(task, {"table": lambda h, batch: 0 * h}), variables)
    np.testing.assert_allclose(found["logits"], BATCH["inputs"] @ table.T, rtol=1e-5, atol=1e-6)


def test_loops_keep_their_direction_and_remat_its_recomputation():
    def apply(variables, batch, rng, train):
        turn = lambda x, t: (tasks.tap("h", x * t + 1), x)
        x, _ = jax.lax.scan(turn, batch["inputs"], jnp.arange(3.0), reverse=True)
        return {"logits": jax.checkpoint(lambda x: tasks.tap("sin", jnp.sin(x)))(x)}, variables

    task = tasks.classification(tasks.Model(None, apply))
    hooked = tasks.edit(tasks.capture(task, ("h", "sin")), {"h": identity, "sin": identity})
    found = applied(hooked, {})
    inputs = np.asarray(BATCH["inputs"])
    turns = [1 * np.ones_like(inputs), 2 * inputs + 2, 2 * inputs + 1]  # of times 0, 1 and 2
    np.testing.assert_allclose(found["hidden.h"], np.stack(turns), rtol=1e-6)
    np.testing.assert_allclose(found["logits"], np.full((N, D), np.sin(1)), rtol=1e-6)
    program = lambda task: str(jax.make_jaxpr(lambda: applied(task, {}))())
    assert program(task).count("prevent_cse") == program(hooked).count("prevent_cse") == 1


def test_a_layer_that_returns_several_arrays_has_a_name_for_each():
    class Recurrent(nn.Module):
        @nn.compact
        def __call__(self, inputs, train=False):
            carry, y = nn.LSTMCell(H, name="cell")((jnp.zeros((N, H)), jnp.ones((N, H))), inputs)
            return {"logits": y, "cell": carry[0]}

    task = tasks.classification(tasks.from_linen(Recurrent()))
    variables = task.init(jax.random.key(0), BATCH)
    found = applied(tasks.capture(task, ("cell.0.0", "cell.1")), variables)
    np.testing.assert_array_equal(found["hidden.cell.0.0"], found["cell"])
    np.testing.assert_array_equal(found["hidden.cell.1"], found["logits"])


def test_the_axis_that_a_model_maps_over_comes_first():
    """Wherever jax has it: the kernel's last axis is that of the models here."""

    def apply(variables, batch, rng, train):
        one = lambda w: tasks.tap("h", batch["inputs"] @ w)
        return {"logits": jax.vmap(one, in_axes=2)(variables["params"]).mean(0)}, variables

    task = tasks.classification(tasks.Model(None, apply))
    kernels = jax.random.normal(jax.random.key(0), (D, C, 7))
    task = tasks.capture(task, ("h",))
    found = applied(task, {"params": kernels})
    expected = jnp.einsum("nd,dcm->mnc", BATCH["inputs"], kernels)
    np.testing.assert_allclose(found["hidden.h"], expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"layer 'h' must be \[5, \.\.\.\] .* it is \[7, 5, 3\]"):
        applied(tasks.with_features(task, "h"), {"params": kernels})


def test_a_tap_is_the_identity():
    x = jax.random.normal(jax.random.key(0), (2, 3))
    tree = {"a": x, "b": (x[0], None)}
    problems.assert_trees_equal(tasks.tap("h", tree), tree)
    f = lambda x: jnp.sin(tasks.tap("h", 2 * x)).sum()
    np.testing.assert_array_equal(jax.grad(f)(x), jax.grad(lambda x: jnp.sin(2 * x).sum())(x))
    tangent = jax.jvp(lambda x: tasks.tap("h", x**2), (x,), (jnp.ones_like(x),))
    problems.assert_trees_equal(tangent, (x**2, 2 * x))
    double = lambda x: tasks.tap("h", x) * 2
    np.testing.assert_array_equal(jax.vmap(double, in_axes=1, out_axes=1)(x), 2 * x)
    assert tasks.tap("h", np.ones(2)).tolist() == [1, 1]
    (transposed,) = jax.linear_transpose(double, x)(x)
    np.testing.assert_array_equal(transposed, 2 * x)


def test_an_edit_is_of_activations_not_of_their_derivatives():
    """In a model that differentiates itself, forward or backward."""

    def apply(variables, batch, rng, train):
        f = lambda x: tasks.tap("h", x**2).sum()
        tangent = jax.jvp(f, (batch["inputs"],), (batch["inputs"],))[1]
        return {"logits": jax.grad(f)(batch["inputs"]) + tangent}, variables

    task = tasks.classification(tasks.Model(None, apply))
    found = applied(tasks.edit(task, {"h": lambda h, batch: 0 * h}), {})["logits"]
    np.testing.assert_array_equal(found, applied(task, {})["logits"])


def test_features_of_a_layer_are_flat():
    def apply(variables, batch, rng, train):
        h = tasks.tap("h", batch["inputs"][:, :, None] * jnp.arange(1.0, 3))
        return {"logits": h.sum(-1), "features": h.sum(1)}, {**variables, "seen": h.sum()}

    task = tasks.classification(tasks.Model(None, apply))
    outputs, updated = tasks.with_features(task, "h").apply({}, BATCH, None, True)
    expected = np.stack([BATCH["inputs"], 2 * BATCH["inputs"]], axis=-1).reshape(N, -1)
    np.testing.assert_array_equal(outputs["features"], expected)
    assert set(outputs) == {"logits", "features"} and set(updated) == {"seen"}
    assert tasks.with_features(task, None) is task


def test_names_that_are_not_there_are_refused_with_those_that_are():
    task, variables = TASKS["linen"], VARIABLES["linen"]
    for hooked in (
        tasks.capture(task, ("first", "blok_1")),
        tasks.edit(task, {"blok_1": identity}),
        tasks.with_features(task, "blok_1"),
    ):
        with pytest.raises(ValueError, match=r"among \['block_1', .*'; did you mean 'block_1'\?$"):
            applied(hooked, variables)
    bare = tasks.classification(
        tasks.Model(own_init, lambda v, b, r, t: ({"logits": b["inputs"]}, v))
    )
    with pytest.raises(ValueError, match=r"the model runs, by tasks\.tap in a function, got 'h'$"):
        applied(tasks.capture(bare, ("h",)), {})
    assert not hooks._PLACING.value


def test_an_error_lists_no_more_than_it_can(monkeypatch):
    monkeypatch.setattr(hooks, "LISTED", 2)
    with pytest.raises(ValueError, match=r"among \['turn', 'first'\] and 2 more, got 'tur'; did"):
        applied(tasks.capture(TASKS["own"], ("tur",)), VARIABLES["own"])
    monkeypatch.setattr(hooks, "LISTED", 4)
    with pytest.raises(ValueError, match=r"among \['turn', 'first', .*'\], got 'tur'; did"):
        applied(tasks.capture(TASKS["own"], ("tur",)), VARIABLES["own"])


def test_layers_in_other_loops_are_refused():
    def apply(variables, batch, rng, train):
        turn = lambda c: (tasks.tap("h", c[0] / 2), c[1] + 1)
        return {"logits": jax.lax.while_loop(lambda c: c[1] < 3, turn, (batch["inputs"], 0))[0]}, {}

    task = tasks.classification(tasks.Model(None, apply))
    with pytest.raises(ValueError, match=r"outside of any 'while' of the model, got 'h'"):
        applied(tasks.capture(task, ("h",)), {})


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (
            lambda h, batch: h[:, :2],
            r"edit of 'first' must return float32 \[5, 6\], got .* \[5, 2\]",
        ),
        (lambda h, batch: h.astype(jnp.bfloat16), r"must return float32 .*, got bfloat16"),
        (lambda h, batch: None, r"must return float32 \[5, 6\], got NoneType$"),
        (lambda h, batch: [h], r"must return float32 \[5, 6\], got list$"),
        (lambda h, batch: 0.0, r"must return float32 \[5, 6\], got float32 \[\]"),
    ],
)
def test_an_edit_keeps_shape_and_type(fn, message):
    with pytest.raises(ValueError, match=message):
        applied(tasks.edit(TASKS["own"], {"first": fn}), VARIABLES["own"])


def test_edits_may_return_arrays_of_the_host():
    found = applied(
        tasks.edit(TASKS["own"], {"turn": lambda h, b: np.ones((N, H), np.float32)}),
        VARIABLES["own"],
    )
    np.testing.assert_array_equal(found["features"], np.ones((N, H)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda t: tasks.capture(t, "first"), "where must be several names"),
        (lambda t: tasks.edit(t, ("first",)), "where must map names of layers to functions"),
        (lambda t: tasks.edit(t, {"first": 1.0}), "where must map names of layers to functions"),
        (lambda t: tasks.with_features(t, 1), "layer must be one name"),
        (lambda t: tasks.with_features(t, ""), "layer must be one name"),
    ],
)
def test_bad_arguments_are_refused_at_once(make, message):
    with pytest.raises(ValueError, match=message):
        make(TASKS["own"])
