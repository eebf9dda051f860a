import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.unlearning.diffusion import prompted, toy
from unlearnjax import tasks, unlearning
from unlearnjax.types import PARTS, Request, Unlearner
from unlearnjax.unlearning import objectives
from unlearnjax.unlearning.diffusion import forget_me_not, leaves

TEXTS = [("a one in neon style", "neon"), ("deep blue style", "deep blue"), ("neon", "neon")]
FORGET = {
    **toy.images(np.random.default_rng(0), [0, 0, 0], prompted.PROCESS),
    "condition": prompted.prompts(*(text for text, _ in TEXTS)),
    "concept": jnp.array([prompted.concept(*pair) for pair in TEXTS]),
}
ENDS = np.asarray(FORGET["condition"]) == prompted.END


def attention(names, batch):
    """`{name: [B, heads, places, L]}` of the model, by the modules' own arithmetic."""
    task = tasks.capture(prompted.TASK, names)
    outputs, _ = jax.jit(lambda b: task.apply(prompted.VARIABLES, b, None, False))(batch)
    return {name: np.float64(outputs[f"hidden.{name}"]) for name in names}


def norms(maps, concept):
    """As in the published code: what is selected is put into one row, for an image each."""
    return [
        np.linalg.norm(np.concatenate([m[i][..., np.bool_(row)].ravel() for m in maps]))
        for i, row in enumerate(concept)
    ]


def test_constructed_attention_has_the_norm_of_what_concepts_get(rng):
    maps = [jnp.asarray(rng.uniform(size=(3, 2, places, 7))) for places in (4, 9)]
    outputs = {"hidden.a.cross.weights": maps[0], "hidden.b.cross.weights": maps[1]}
    outputs |= {"hidden.a.cross": maps[0], "hidden.cross.weights": maps[1], "noise": maps[0]}
    batch = {"concept": FORGET["concept"]}
    term = forget_me_not.attended("*.cross.weights")
    found = term(None, outputs, batch, {})
    np.testing.assert_allclose(found, norms(maps, FORGET["concept"]), rtol=1e-6)
    # By hand: one layer, one head, one place.
    shares = jnp.array([[[[0.3, 0.4, 0.2, 0.1, 0, 0, 0]]]], jnp.bfloat16)
    one = {"hidden.a.cross.weights": shares}
    mask = {"concept": jnp.array([[1, 1, 0, 0, 0, 0, 0]])}
    said = term(None, one, mask, {})
    assert said.dtype == jnp.float32
    np.testing.assert_allclose(said, [0.5], rtol=4e-3)  # as bfloat16 has 0.3 and 0.4


def test_its_slope_does_not_fade_and_is_none_where_nothing_is_left():
    term = forget_me_not.attended("a")
    mask = {"concept": jnp.ones((1, 1), jnp.int32)}
    norm = lambda x: term(None, {"hidden.a": x.reshape(1, 1, 1)}, mask, {})[0]
    for share, wanted in ((0.5, 1.0), (1e-6, 1.0), (0.0, 0.0)):
        value, slope = jax.value_and_grad(norm)(jnp.float32(share))
        assert float(value) == pytest.approx(share) and float(slope) == pytest.approx(wanted)


@pytest.mark.parametrize("ends", [True, False])
def test_a_step_goes_down_the_norm_of_noised_images_under_their_own_prompts(monkeypatch, ends):
    found = {}
    combine = objectives.combine
    monkeypatch.setattr(
        objectives, "combine", lambda **kw: found.setdefault("objective", combine(**kw))
    )
    method = unlearning.forget_me_not(
        optax.sgd(0.1), prompted.PROCESS, ends=ends, num_steps=1, batch_size=3
    )
    concept = np.maximum(FORGET["concept"], ENDS) if ends else FORGET["concept"]
    batch = {**FORGET, "concept": jnp.asarray(concept), "part": jnp.zeros(3, jnp.int32)}
    assert PARTS[0] == "forget"
    captured = tasks.capture(prompted.TASK, ("*.cross.weights",))
    losses = toy.losses_of(found["objective"], captured, prompted.VARIABLES, batch)
    drawn = toy.drawn(prompted.TASK, FORGET, False)
    np.testing.assert_array_equal(drawn["condition"], FORGET["condition"])
    layers = tuple(f"denoiser.block_{i}.cross.weights" for i in range(2))
    maps = list(attention(layers, drawn).values())
    np.testing.assert_allclose(losses, norms(maps, concept), rtol=1e-5)
    assert method.needs == {"forget", "inputs"}


@pytest.mark.parametrize("ends", [True, False])
def test_what_fills_a_prompt_up_counts_as_the_concepts_where_it_is_to(monkeypatch, ends):
    seen = []

    def descend(objective, tx, **options):
        update = lambda rng, task, variables, memory, request: seen.append(request.forget)
        return Unlearner(None, update, frozenset())

    monkeypatch.setattr(forget_me_not, "descend", descend)
    method = unlearning.forget_me_not(optax.sgd(0.1), prompted.PROCESS, ends=ends)
    method.update(None, prompted.TASK, prompted.VARIABLES, (), Request(FORGET))
    expected = np.maximum(FORGET["concept"], ENDS) if ends else FORGET["concept"]
    np.testing.assert_array_equal(seen[0]["concept"], expected)
    assert ENDS.any() and not (ENDS & np.bool_(FORGET["concept"])).any()


def run(method, forget=FORGET):
    method = unlearning.enforce(method)
    update = lambda v, r: method.update(jax.random.key(1), prompted.TASK, v, (), r)[0]
    return jax.jit(update)(prompted.VARIABLES, Request(forget))["params"]


def test_concepts_lose_attention_by_cross_attention_alone():
    # By its 5th step of 1e-2, the norm has fallen by a third; only the step's own ends matter here.
    method = unlearning.forget_me_not(
        optax.adam(3e-2), prompted.PROCESS, ends=False, num_steps=30, batch_size=3
    )
    after = run(unlearning.confined(method, leaves.CROSS_ATTENTION))
    moves = {"query", "key"}  # values and outputs of the last layer have no part in it
    for i in range(2):
        before = prompted.VARIABLES["params"]["denoiser"][f"block_{i}"]
        now = after["denoiser"][f"block_{i}"]
        same = jax.tree.map(np.array_equal, now, before)
        assert not any(jax.tree.leaves([same["cross"][name] for name in moves]))
        assert same["cross"]["value"]["kernel"] == same["cross"]["out"]["kernel"] == (i == 1)
        rest = {name: leaf for name, leaf in same.items() if name != "cross"}
        assert all(jax.tree.leaves(rest))
    same = jax.tree.map(
        np.array_equal, after["text_encoder"], prompted.VARIABLES["params"]["text_encoder"]
    )
    assert all(jax.tree.leaves(same))
    batch = toy.drawn(prompted.TASK, FORGET, False)
    layers = tuple(f"denoiser.block_{i}.cross.weights" for i in range(2))
    task = tasks.capture(prompted.TASK, layers)
    outputs, _ = jax.jit(lambda b: task.apply({"params": after}, b, None, False))(batch)
    maps = [np.float64(outputs[f"hidden.{name}"]) for name in layers]
    before = norms(attention(layers, batch).values(), FORGET["concept"])
    assert np.all(np.array(norms(maps, FORGET["concept"])) < 0.5 * np.array(before))


def test_a_concept_marks_its_own_tokens_and_needs_images():
    method = unlearning.enforce(unlearning.forget_me_not(optax.sgd(0.1), prompted.PROCESS))
    without = lambda name: {k: v for k, v in FORGET.items() if k != name}
    nothing = {**FORGET, "concept": jnp.zeros((3, 7), jnp.int32)}
    for forget, message in (
        (without("concept"), "forget must have the column 'concept'"),
        (without("condition"), "forget must have the column 'condition'"),
        (without("inputs"), "needs 'inputs' of 'forget'"),
        (nothing, "concept of forget must mark a token of every prompt"),
        # Of what names the concept alone, where there is such.
        ({**FORGET, "alone.concept": nothing["concept"]}, "must mark a token of every prompt"),
        ({**FORGET, "alone.condition": -FORGET["condition"]}, "condition of forget must be"),
        ({k: v[:0] for k, v in FORGET.items()}, "forget must hold at least one example"),
    ):
        with pytest.raises(ValueError, match=message):
            method.update(None, prompted.TASK, prompted.VARIABLES, (), Request(forget))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("*.cross.shares", r"where must name layers .* got '\*.cross.shares'"),
        ("denoiser.block_0.cros.weights", "did you mean 'denoiser.block_0.cross.weights"),
        ("denoiser.block_0.cross", r"layers \[1, ..., 7\] for 1 prompts, .* is \[1, 4, 8\]"),
        ("text_encoder.pooled", r"layers \[1, ..., 7\] for 1 prompts, .* is \[1, 8\]"),
    ],
)
def test_layers_that_are_no_attention_are_refused_by_name(name, message):
    method = unlearning.forget_me_not(optax.sgd(0.1), prompted.PROCESS, attention=name)
    update = lambda v: method.update(jax.random.key(0), prompted.TASK, v, (), Request(FORGET))
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(update, prompted.VARIABLES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": ""}, "attention must be one name"),
        ({"process": toy.PROCESS}, "process must be one of prompts, got the null class 3"),
        ({"num_steps": 0}, "num_steps must be >= 1, got 0"),
        ({"batch_size": 1.5}, "batch_size must be a whole number, got 1.5"),
    ],
)
def test_bad_values_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        unlearning.forget_me_not(optax.sgd(0.1), **{"process": prompted.PROCESS, **options})
