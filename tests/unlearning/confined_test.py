import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import problems
from unlearnjax import tasks, trees, unlearning
from unlearnjax.types import Request, Unlearner

TASK = problems.mlp(hidden=(6, 5))
DATA = problems.digits(24)
VARIABLES = problems.init(TASK, DATA)
REQUEST = Request(*({k: v[rows] for k, v in DATA.items()} for rows in (slice(8), slice(8, 24))))
NAMES = trees.names(VARIABLES["params"])
ADAMW = optax.adamw(0.1, weight_decay=0.1)  # which moves all that it sees


def updated(method, variables=VARIABLES, request=REQUEST):
    run = jax.jit(lambda v, r: method.update(jax.random.key(0), TASK, v, (), r)[0])
    return run(variables, request)


def moved(after):
    pairs = zip(NAMES, jax.tree.leaves(after["params"]), strict=True)
    before = dict(zip(NAMES, jax.tree.leaves(VARIABLES["params"]), strict=True))
    return [name for name, leaf in pairs if not np.array_equal(leaf, before[name])]


@pytest.mark.parametrize(
    ("where", "but", "left"),
    [
        (["Dense_1"], (), ["Dense_1.bias", "Dense_1.kernel"]),
        (["Dense_*"], ["*.bias", "Dense_0"], ["Dense_1.kernel", "Dense_2.kernel"]),
        (None, lambda name: "0" in name, NAMES[2:]),
        (lambda name: "2" in name, ["Dense_2.kernel"], ["Dense_2.bias"]),
    ],
)
def test_only_what_is_meant_moves_and_as_if_the_rest_had_no_gradient(where, but, left):
    method = unlearning.finetune(ADAMW, num_epochs=2, batch_size=8)
    after = updated(unlearning.confined(method, where, but))
    assert moved(after) == left
    mask = jax.tree.unflatten(jax.tree.structure(VARIABLES["params"]), [n in left for n in NAMES])
    masked = unlearning.transforms.masked(ADAMW, jax.tree.map(np.float32, mask))
    alike = updated(unlearning.finetune(masked, num_epochs=2, batch_size=8))
    problems.assert_trees_close(after, alike, rtol=1e-5)


def test_the_method_sees_nothing_else_and_the_original_likewise():
    seen = {}

    def update(rng, task, variables, memory, request):
        seen.update(names=trees.names(variables["params"]), memory=memory)
        seen["original"] = trees.names(request.original["params"])
        outputs, _ = task.apply(variables, request.forget, None, False)
        seen["logits"] = outputs["logits"]
        return jax.tree.map(lambda x: x + 1, variables), memory + 1

    def init(rng, task, variables, data):
        doubled = jax.tree.map(lambda x: 2 * x, variables["params"])
        return {**variables, "params": doubled}, trees.names(variables["params"])

    serve = lambda task: "served"
    method = Unlearner(init, update, frozenset({"forget"}), serve)
    confined = unlearning.confined(method, ["Dense_1"])
    original = jax.tree.map(jnp.zeros_like, VARIABLES)
    request = REQUEST._replace(original=original)
    after, memory = confined.update(None, TASK, VARIABLES, 4, request)
    assert seen["names"] == seen["original"] == NAMES[2:4] and memory == 5
    plain, _ = TASK.apply(VARIABLES, REQUEST.forget, None, False)
    np.testing.assert_array_equal(seen["logits"], plain["logits"])
    assert moved(after) == NAMES[2:4] and set(after) == {"params"}
    deployed, remembered = confined.init(None, TASK, VARIABLES, None)
    assert remembered == NAMES[2:4] and moved(deployed) == ["Dense_1.kernel"]  # biases are 0
    assert confined.needs == {"forget"} and confined.serve(TASK) == "served"


def test_what_it_deploys_are_variables_of_the_task_that_it_was_given():
    """Of one whose variables are split already, for instance."""
    shift = lambda rng, task, v, memory, request: (jax.tree.map(lambda x: x + 1, v), memory)
    method = Unlearner(None, shift, frozenset())
    task = tasks.trained(TASK, ["Dense_0", "Dense_1"])
    given = tasks.split(VARIABLES, ["Dense_0", "Dense_1"])
    confined = unlearning.confined(method, ["Dense_*"], but=["Dense_0"])
    after, _ = confined.update(None, task, given, (), REQUEST)
    assert set(after) == {"params", "frozen"}
    names = [name for name in NAMES if "Dense_2" not in name]
    assert trees.names(after["params"]) == names
    assert moved(tasks.merged(task, after)) == [*NAMES[2:4], *NAMES[4:]]  # 'frozen' is not its own


def test_all_is_the_method_itself():
    method = unlearning.finetune(ADAMW, num_epochs=1, batch_size=8)
    assert unlearning.confined(method, None) is method


def test_text_in_the_place_of_names_is_refused_ahead_of_any_request():
    method = unlearning.finetune(ADAMW, num_epochs=1, batch_size=8)
    for options in ({"where": "Dense_1"}, {"where": None, "but": "Dense_1"}):
        with pytest.raises(ValueError, match="must be several names"):
            unlearning.confined(method, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"where": "Dense_1"}, "where must be several names, such as .* got 'Dense_1'"),
        ({"where": ["Dense_1"], "but": "*.bias"}, "but must be several names"),
        ({"where": ["Dense_11"]}, "where must be among .* got 'Dense_11'; did you mean 'Dense_1'"),
        ({"where": None, "but": ["bias"]}, "but must be among .* got 'bias'"),
        ({"where": []}, r"where must choose some of .* that but=\(\) leaves, got none"),
        ({"where": ["Dense_1"], "but": ["Dense_*"]}, "leaves, got none"),
    ],
)
def test_bad_names_are_refused_by_name(options, message):
    method = unlearning.finetune(ADAMW, num_epochs=1, batch_size=8)
    with pytest.raises(ValueError, match=message):
        unlearning.confined(method, **options).update(None, TASK, VARIABLES, (), REQUEST)
