import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import frameworks, problems
from tests.unlearning import methods
from unlearnjax import curvature, tasks, training, trees, unlearning
from unlearnjax.types import Request
from unlearnjax.unlearning import transforms

DATA = frameworks.data()
WHERE = ["out"]


@pytest.fixture(scope="module")
def linen():
    task = frameworks.task("linen")
    model = {"params": frameworks.shaken(task.init(jax.random.key(0), DATA)["params"])}
    return task, model, tasks.trained(task, WHERE), tasks.split(model, WHERE)


def fit(task, start, tx, **sizes):
    sizes = {"num_epochs": 3, "batch_size": 2, **sizes}
    run = lambda start: training.train(
        task, tx, DATA, jnp.arange(6), jax.random.key(1), start=start, **sizes
    )
    return jax.jit(run)(start)[0]


@pytest.mark.parametrize("name", frameworks.MODELS)
def test_a_model_goes_in_and_comes_back_bit_by_bit_and_computes_the_same(name):
    task = frameworks.task(name)
    model = task.init(jax.random.key(0), DATA)
    own = tasks.trained(task, [frameworks.LAST[name][1]])
    variables = tasks.split(model, [frameworks.LAST[name][1]])
    assert trees.names(variables["params"]) == [frameworks.LAST[name][1]]
    assert len(trees.names(variables["frozen"])) == 3
    problems.assert_trees_equal(tasks.merged(own, variables), model)
    outputs, updated = own.apply(variables, DATA, None, False)
    problems.assert_trees_equal(updated, variables)
    np.testing.assert_array_equal(
        outputs["logits"], task.apply(model, DATA, None, False)[0]["logits"]
    )
    assert tasks.merged(task, model) is model


def test_gradients_and_moments_are_of_the_trained_alone(linen):
    _, _, own, variables = linen
    nbytes = trees.nbytes(variables["params"])
    assert nbytes == 4 * (7 * 3 + 3)
    tx = optax.adam(0.1)
    state = training.init_state(variables, tx)
    assert trees.nbytes(state.opt_state) == 2 * nbytes + 4  # two moments and the count
    step = training.make_step(training.supervised(own), tx)
    batch = {**DATA, "weight": jnp.ones(6)}
    computed = problems.shapes(step, state, batch, jax.random.key(0))
    assert (7, 3) in computed and (5, 7) not in computed  # the frozen kernel has no gradient


def test_training_equals_masking_all_others(linen):
    task, model, own, variables = linen
    mask = transforms.layer_mask(model["params"], WHERE)
    expected = fit(task, model, transforms.masked(optax.adam(0.1), mask)).variables
    found = fit(own, variables, optax.adam(0.1)).variables
    problems.assert_trees_close(tasks.merged(own, found), expected, rtol=1e-5)
    problems.assert_trees_equal(found["frozen"], variables["frozen"])
    before, after = (tree["out"]["kernel"] for tree in (variables["params"], found["params"]))
    assert float(jnp.abs(after - before).max()) > 0.05


def test_the_frozen_part_is_carried_and_the_trained_is_made_afresh(linen):
    task, model, own, variables = linen
    fresh = own.init(jax.random.key(3), DATA)
    assert set(fresh) == {"params"}
    plain = task.init(jax.random.key(3), DATA)["params"]["out"]
    problems.assert_trees_equal(fresh["params"]["out"], plain)
    assert training.carried(own, DATA, variables).keys() == {"frozen"}
    retrain = unlearning.retrain(optax.sgd(0.1), num_epochs=1, batch_size=6)
    again, _ = retrain.update(jax.random.key(2), own, variables, (), Request(DATA, DATA))
    problems.assert_trees_equal(again["frozen"], variables["frozen"])
    assert not np.allclose(again["params"]["out"]["kernel"], model["params"]["out"]["kernel"])


def test_importances_are_those_of_the_whole_model_where_it_is_trained(linen):
    task, model, own, variables = linen
    batch = {**DATA, "weight": jnp.ones(6)}
    whole = curvature.fisher_diagonal(task, model, batch)
    found = curvature.fisher_diagonal(own, variables, batch)
    problems.assert_trees_close(found["out"], whole["out"])
    assert trees.names(found) == ["out.bias", "out.kernel"]
    assert tasks.layer_names(own, variables, DATA) == ["out"]


# One of each way to forget: by descent, importance, curvature, pruning, players, shards and heads.
SLOW = ("retrain", "scrub", "influence", "iterative_prune_finetune", "laf", "sisa", "acu")


@pytest.mark.parametrize(
    "name", ["finetune", "ssd", *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW)]
)
def test_every_method_forgets_in_the_trained_part_alone(name):
    where = ["Dense_0"]
    task = problems.mlp()
    data = {k: jnp.asarray(v) for k, v in problems.digits(90).items()}
    own, variables = tasks.trained(task, where), tasks.split(problems.init(task, data), where)
    is_forgotten = np.asarray(data["targets"]) == 3
    parts = [{k: v[rows] for k, v in data.items()} for rows in (is_forgotten, ~is_forgotten)]
    method = methods.METHODS[name]

    @jax.jit
    def forget(variables):
        deployed, memory = method.init(jax.random.key(0), own, variables, data)
        request = Request(*parts, parts[1])
        return method.update(jax.random.key(1), own, deployed, memory, request)[0]

    result = forget(variables)
    logits = method.serve(own).apply(result, parts[1], None, False)[0]["logits"]
    assert jnp.isfinite(logits).all()
    if name == "acu":  # a head of its own beside the whole model
        return
    frozen = result["frozen"]
    if name == "sisa":  # of every shard
        frozen, result = jax.tree.map(lambda x: x[0], (frozen, result))
    problems.assert_trees_equal(frozen, variables["frozen"])
    assert jax.tree.structure(result["params"]) == jax.tree.structure(variables["params"])
    assert not np.array_equal(*(v["params"]["Dense_0"]["kernel"] for v in (result, variables)))


def test_errors_name_what_there_is(linen):
    task, model, own, variables = linen
    with pytest.raises(
        ValueError, match=r"where must be among \['hidden', 'out'\], got 'outt'; did"
    ):
        tasks.split(model, ["outt"])
    with pytest.raises(ValueError, match="where must be among .* did you mean 'out.kernel'"):
        tasks.trained(task, ["out.kernle"]).init(jax.random.key(0), DATA)
    for where in ([], lambda path: path == "kernel"):
        with pytest.raises(ValueError, match=r"where must choose some of \['hidden.bias', .* none"):
            tasks.split(model, where)
    with pytest.raises(ValueError, match="where must be several names"):
        tasks.split(model, "out")
    with pytest.raises(ValueError, match=r"collection 'frozen', which tasks.split makes .*params"):
        own.apply(model, DATA, None, False)
    with pytest.raises(ValueError, match=r"collection must be none of .*, got 'frozen'"):
        tasks.split(variables, WHERE)


@pytest.mark.parametrize(
    ("where", "other"),
    [(["out"], ["hidden"]), (["out"], ["out.bias"]), (["out.bias"], ["out"]), (None, ["out"])],
)
def test_variables_that_were_split_by_another_choice_are_refused(linen, where, other):
    task, model, *_ = linen
    own, split = tasks.trained(task, where), tasks.split(model, other)
    message = "where must be the one that the variables were split by, .*(hidden|out).kernel"
    for call in (lambda v: own.apply(v, DATA, None, False), lambda v: tasks.merged(own, v)):
        with pytest.raises(ValueError, match=message):
            call(split)
        problems.assert_trees_equal(tasks.merged(own, tasks.split(model, where)), model)
