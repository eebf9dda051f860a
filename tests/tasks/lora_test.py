import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

from tests import frameworks, problems
from unlearnjax import curvature, tasks, training, trees, unlearning
from unlearnjax.types import Request

DATA = frameworks.data()


def started(task, own):
    """A model, and fresh changes of it."""
    model = task.init(jax.random.key(0), DATA)
    model = {**model, "params": frameworks.shaken(model["params"])}
    return model, training.init_variables(own, DATA, jax.random.key(1), tasks.as_base(model))


def logits(task, variables, batch=DATA):
    return task.apply(variables, batch, None, False)[0]["logits"]


@pytest.mark.parametrize("name", frameworks.MODELS)
def test_fresh_changes_are_none_bit_by_bit_under_every_transformation(name):
    task = frameworks.task(name)
    own = tasks.lora(task, 2, vectors=True)
    model, variables = started(task, own)
    pairs = (task, model), (own, variables)
    for wrap in (lambda f: f, jax.checkpoint):
        found = [jax.jit(wrap(lambda v, t=t: logits(t, v)))(v) for t, v in pairs]
        np.testing.assert_array_equal(*found)
    stacked = [(t, jax.tree.map(lambda x: jnp.stack([x, x]), v)) for t, v in pairs]
    found = [jax.jit(jax.vmap(lambda v, t=t: logits(t, v)))(v) for t, v in stacked]
    np.testing.assert_array_equal(*found)
    problems.assert_trees_equal(tasks.merged(own, variables), model)


@pytest.mark.parametrize("name", frameworks.MODELS)
def test_a_change_is_alpha_over_rank_times_the_product(name):
    task = frameworks.task(name)
    last, kernel = frameworks.LAST[name]
    own = tasks.lora(task, 2, [last], alpha=6.0)
    model, variables = started(task, own)
    assert trees.names(variables["params"]) == [f"{kernel}.a", f"{kernel}.b"]
    a, b = jax.tree.leaves(variables["params"])
    assert a.shape == (7, 2) and b.shape == (2, 3)
    b = jax.random.normal(jax.random.key(5), b.shape)
    params = jax.tree.unflatten(jax.tree.structure(variables["params"]), [a, b])
    merged = tasks.merged(own, {**variables, "params": params})
    before, after = (dict(zip(trees.names(t), jax.tree.leaves(t), strict=True))
                     for t in (model["params"], merged["params"]))  # fmt: skip
    for path, leaf in before.items():
        expected = leaf + (3.0 * np.asarray(a) @ np.asarray(b) if path == kernel else 0)
        np.testing.assert_allclose(after[path], expected, rtol=1e-5, atol=1e-6)
    found = logits(own, {**variables, "params": params})
    np.testing.assert_allclose(logits(task, merged), found, atol=1e-5)


@pytest.mark.parametrize("name", frameworks.MODELS)
def test_the_base_is_bit_equal_after_training_and_the_loss_falls(name):
    task = frameworks.task(name)
    own = tasks.lora(task, 1)
    model, variables = started(task, own)
    train = jax.jit(
        lambda start: training.train(
            own, optax.adam(0.05), DATA, jnp.arange(6), jax.random.key(1),
            num_epochs=20, batch_size=6, start=start,
        )
    )  # fmt: skip
    state, history = train(variables)
    problems.assert_trees_equal(state.variables["base"], model["params"])
    assert history["loss"][-1] < 0.8 * history["loss"][0]


def test_full_rank_spans_any_change():
    task = frameworks.task("linen")
    own = tasks.lora(task, 100, vectors=True, alpha=50.0)
    model, variables = started(task, own)
    wanted = frameworks.shaken(jax.tree.map(jnp.zeros_like, model["params"]), 1.0)

    def solved(edit, change):
        if "offset" in edit:
            return {"offset": change}
        # Half of a b is the change: alpha / rank = 1/2.
        rows, columns = change.shape
        if rows > columns:
            return {"a": 2 * change, "b": jnp.eye(columns)}
        return {**edit, "b": jnp.linalg.solve(edit["a"], 2 * change)}

    is_edit = lambda x: isinstance(x, dict) and not {"a", "offset"}.isdisjoint(x)
    params = jax.tree.map(solved, variables["params"], wanted, is_leaf=is_edit)
    merged = tasks.merged(own, {**variables, "params": params})["params"]
    expected = jax.tree.map(jnp.add, model["params"], wanted)
    problems.assert_trees_close(merged, expected, rtol=1e-4)
    shapes = {"a": (5, 5), "b": (5, 7)}  # no more than it takes
    assert jax.tree.map(jnp.shape, variables["params"]["hidden"]["kernel"]) == shapes


def test_gradients_and_moments_are_of_the_changes_alone():
    task = frameworks.task("linen")
    own = tasks.lora(task, 1)
    _, variables = started(task, own)
    nbytes = 4 * (5 + 7 + 7 + 3)
    tx = optax.adam(0.1)
    state = training.init_state(variables, tx)
    assert trees.nbytes(state.opt_state) == 2 * nbytes + 4  # two moments and the count
    batch = {**DATA, "weight": jnp.ones(6)}
    seen = []
    spy = optax.GradientTransformation(tx.init, lambda g, *rest: seen.append(g) or (g, rest[0]))
    jax.eval_shape(
        training.make_step(training.supervised(own), spy), state, batch, jax.random.key(0)
    )
    assert trees.nbytes(seen[0]) == nbytes


def test_gradients_are_those_of_the_weights_by_the_chain_rule():
    task = frameworks.task("linen")
    own = tasks.lora(task, 2, ["out"], alpha=3.0, vectors=True)
    model, variables = started(task, own)
    params = frameworks.shaken(variables["params"])

    def loss(task, variables, params):
        variables = {**variables, "params": params}
        return task.loss(task.apply(variables, DATA, None, False)[0], DATA).sum()

    merged = tasks.merged(own, {**variables, "params": params})
    whole = jax.grad(lambda p: loss(task, model, p))(merged["params"])["out"]
    found = jax.grad(lambda p: loss(own, variables, p))(params)["out"]
    a, b = params["out"]["kernel"]["a"], params["out"]["kernel"]["b"]
    np.testing.assert_allclose(found["kernel"]["a"], 1.5 * whole["kernel"] @ b.T, atol=1e-5)
    np.testing.assert_allclose(found["kernel"]["b"], 1.5 * a.T @ whole["kernel"], atol=1e-5)
    np.testing.assert_allclose(found["bias"]["offset"], whole["bias"], atol=1e-5)


def wide(shape, **options):
    def init(rng, batch):
        return {"params": {"w": jnp.zeros(shape), "v": jnp.zeros(3)}}

    task = tasks.classification(tasks.Model(init, lambda *given: given))
    return tasks.lora(task, 50, **options).init(jax.random.key(4), DATA)["params"]


def test_the_first_factor_starts_as_said_and_the_second_at_zero():
    rows = 400
    uniform = wide((rows, 60))["w"]["a"]
    assert uniform.shape == (rows, 50) and float(jnp.abs(uniform).max()) <= rows**-0.5
    assert float(jnp.abs(uniform).max()) > 0.99 * rows**-0.5
    np.testing.assert_allclose(uniform.std(), (3 * rows) ** -0.5, rtol=0.02)
    assert abs(float(uniform.mean())) < 4 * (3 * rows * uniform.size) ** -0.5
    normal = wide((rows, 60), init="normal")["w"]["a"]
    np.testing.assert_allclose(normal.std(), rows**-0.5, rtol=0.02)
    assert float(jnp.abs(normal).max()) > 2 * rows**-0.5
    own = wide((rows, 60), init=lambda key, shape, dtype: jnp.full(shape, 3.0, dtype))["w"]
    assert (own["a"] == 3).all() and own["a"].shape == (rows, 50) and (own["b"] == 0).all()


def test_integers_are_left_alone():
    params = {"table": jnp.ones((4, 3), jnp.int32), "w": jnp.ones((4, 3)), "n": jnp.ones((), int)}
    task = tasks.classification(tasks.Model(lambda *_: {"params": params}, lambda *given: given))
    for make in (lambda *given: tasks.lora(task, 1, *given, vectors=True),
                 lambda *given: tasks.channel_masks(task, *(given or (None,)))):  # fmt: skip
        edits = make().init(jax.random.key(0), DATA)["params"]
        assert edits["table"] is None and edits["n"] is None and edits["w"] is not None
        with pytest.raises(ValueError, match=r"which are floats.*, got 'table': .*\[4, 3\]"):
            make({"table": 0}.keys()).init(jax.random.key(0), DATA)


def test_kernels_of_any_number_of_axes_are_matrices_to_their_outputs():
    """And vectors have changes in full where these are asked for."""
    params = wide((3, 3, 2, 5), vectors=True)
    assert jax.tree.map(jnp.shape, params) == {
        "v": {"offset": (3,)},
        "w": {"a": (18, 5), "b": (5, 5)},
    }
    assert wide((3, 3, 2, 5))["v"] is None


class Attention(nn.Module):
    """Beside attention, a convolution named as its queries are, with outputs of its own."""

    @nn.compact
    def __call__(self, inputs, train=False):
        tokens = inputs[:, :, None] * jnp.ones(4)
        seen = nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=6, name="heads")(tokens)
        return nn.Dense(3)(seen.mean(1)) + Convolved(name="convolved")(tokens).mean((1, 2))[:, None]


class Convolved(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        return nn.Conv(4, (3,), name="out")(nn.Conv(6, (3,), name="query")(tokens))


class NNXAttention(nnx.Module):
    def __init__(self, rngs):
        self.heads = nnx.MultiHeadAttention(2, 4, 6, decode=False, rngs=rngs)
        self.last = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, inputs):
        return self.last(self.heads(inputs[:, :, None] * jnp.ones(4)).mean(1))


@pytest.mark.parametrize("library", ["linen", "nnx"])
def test_attention_is_changed_as_the_matrices_of_all_its_heads_together(library):
    """As PEFT's `lora_A [r, D]` and `lora_B [H h, r]` of `[H h, D]`: of rank one there alone."""
    model = {"linen": lambda: tasks.from_linen(Attention()),
             "nnx": lambda: tasks.from_nnx(NNXAttention)}[library]()  # fmt: skip
    task = tasks.classification(model)
    for rank, vectors in ((9, True), (1, False)):
        own = tasks.lora(task, rank, vectors=vectors)
        base, variables = started(task, own)
        edits = variables["params"]["heads"]
        r, s = min(rank, 4), min(rank, 6)
        for name, shapes in (("query", [(4, r), (r, 6)]), ("out", [(6, r), (r, 4)])):
            assert [x.shape for x in edits[name]["kernel"].values()] == shapes, name
        bias = {"offset": (6,)} if vectors else None
        assert jax.tree.map(jnp.shape, edits["value"]["bias"]) == bias
        if library == "linen":
            shapes = {"a": (12, s), "b": (s, 6)}
            assert (
                jax.tree.map(jnp.shape, variables["params"]["convolved"]["query"]["kernel"])
                == shapes
            )
        changed = {**variables, "params": frameworks.shaken(variables["params"])}
        merged = tasks.merged(own, changed)
        np.testing.assert_allclose(logits(task, merged), logits(own, changed), atol=1e-5)
    old, new = (np.asarray(v["params"]["heads"]["key"]["kernel"]) for v in (base, merged))
    matrix = (new - old).reshape(4, 6)
    assert np.linalg.matrix_rank(matrix, tol=1e-5) == 1
    assert np.linalg.matrix_rank((new - old).reshape(8, 3), tol=1e-5) > 1


def test_types_stay_and_alpha_may_be_traced():
    params = {"w": jnp.ones((4, 3), jnp.bfloat16), "v": jnp.ones(3, jnp.bfloat16)}
    plain = tasks.classification(tasks.Model(lambda *_: {"params": params}, lambda *given: given))

    @jax.jit
    def merged(alpha):
        own = tasks.lora(plain, 2, vectors=True, alpha=alpha)
        edits = jax.tree.map(jnp.ones_like, own.init(jax.random.key(0), DATA)["params"])
        assert {leaf.dtype for leaf in jax.tree.leaves(edits)} == {jnp.dtype(jnp.float32)}
        return tasks.merged(own, {"params": edits, "base": params})["params"]

    found = merged(3.0)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(jnp.bfloat16)}
    np.testing.assert_array_equal(found["w"].astype(jnp.float32), 4.0)  # 1 + 3/2 times 2
    np.testing.assert_array_equal(found["v"].astype(jnp.float32), 2.0)  # offsets are not scaled


@pytest.mark.parametrize("narrow", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("own", [jnp.float32, None])
def test_a_changed_weight_is_rounded_once(narrow, own):
    """Against float64 of NumPy, for changes of either type; a change alone is in float32."""
    own, rng = own or narrow, np.random.default_rng(0)
    shapes = {"w": (40, 30), "a": (40, 4), "b": (4, 30)}
    w, a, b = (rng.normal(size=shape) for shape in shapes.values())
    params = {"w": jnp.asarray(w, narrow), "v": jnp.asarray(w[0], narrow)}
    edits = {"w": {"a": jnp.asarray(a, own), "b": jnp.asarray(b / 7, own)}}
    edits["v"] = {"offset": jnp.asarray(a[:30, 0], own)}
    plain = tasks.classification(tasks.Model(lambda *_: {"params": params}, lambda *given: given))
    lora = tasks.lora(plain, 4, vectors=True, alpha=1.0)
    found = tasks.merged(lora, {"params": edits, "base": params})["params"]
    exact = lambda x: np.asarray(x, np.float64)
    expected = {"w": exact(params["w"]) + exact(edits["w"]["a"]) @ exact(edits["w"]["b"]) / 4}
    expected["v"] = exact(params["v"]) + exact(edits["v"]["offset"])
    for name, value in expected.items():
        gap = np.abs(exact(found[name]) - value)
        half = np.asarray(jnp.finfo(narrow).eps, np.float64) / 2
        assert found[name].dtype == narrow
        assert (gap <= half * np.abs(value) * (1 + 1e-3) + 1e-6).all()


def test_methods_run_on_changes():
    """A Fisher of the changes by its definition, and one that descends on them with a teacher."""
    task = frameworks.task("linen")
    own = tasks.lora(task, 2)
    _, variables = started(task, own)
    variables = {**variables, "params": frameworks.shaken(variables["params"])}
    batch = {**DATA, "weight": jnp.ones(6)}
    found = curvature.fisher_diagonal(own, variables, batch)

    def loss(params, example):
        example = {k: v[None] for k, v in example.items()}
        outputs = own.apply({**variables, "params": params}, example, None, False)[0]
        return own.loss(outputs, example)[0]

    each = jax.vmap(jax.grad(loss), (None, 0))(variables["params"], DATA)
    problems.assert_trees_close(found, jax.tree.map(lambda g: (g**2).mean(0), each))
    method = unlearning.scrub(optax.sgd(0.1), num_epochs=1, max_epochs=1, batch_size=3)
    forget, retain = ({k: v[rows] for k, v in DATA.items()} for rows in (slice(2), slice(2, 6)))
    run = jax.jit(
        lambda v: method.update(jax.random.key(0), own, v, (), Request(forget, retain))[0]
    )
    result = run(variables)
    problems.assert_trees_equal(result["base"], variables["base"])
    assert not np.array_equal(*(v["params"]["out"]["kernel"]["b"] for v in (result, variables)))


def test_what_is_generated_is_the_merged_models():
    says = lambda task, variables, rng, batch: task.apply(variables, batch, None, False)[0]
    task = frameworks.task("linen")._replace(generate=says)
    own = tasks.lora(task, 2)
    model, variables = started(task, own)
    variables = {**variables, "params": frameworks.shaken(variables["params"])}
    pairs = (own, variables), (task, tasks.merged(own, variables)), (task, model)
    found = [tasks.generate(t, v, None, DATA)["logits"] for t, v in pairs]
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)
    assert float(jnp.abs(found[0] - found[2]).max()) > 0.05


def test_bad_values_are_named():
    task = frameworks.task("linen")
    for rank in (0, -1):
        with pytest.raises(ValueError, match=f"rank must be >= 1, got {rank}"):
            tasks.lora(task, rank)
    for rank in (1.5, 2.0, float("inf"), True):
        with pytest.raises(ValueError, match=f"rank must be a whole number, got {rank}"):
            tasks.lora(task, rank)
    with pytest.raises(ValueError, match="alpha must be > 0, got 0"):
        tasks.lora(task, 1, alpha=0)
    with pytest.raises(ValueError, match="init must be one of .*'uniform', 'normal'.* got 'zeros'"):
        tasks.lora(task, 1, init="zeros")
    with pytest.raises(ValueError, match="which are floats with two axes, got 'out.bias'"):
        tasks.lora(task, 1, ["hidden", "out.bias"]).init(jax.random.key(0), DATA)
    tasks.lora(task, 1, ["out.bias"], vectors=True).init(jax.random.key(0), DATA)
