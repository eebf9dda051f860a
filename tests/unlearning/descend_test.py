import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import problems
from unlearnjax import training, unlearning
from unlearnjax.types import Request, Task

OBJECTIVE = unlearning.objectives.combine(retain=[(1.0, unlearning.objectives.task_loss)])


@pytest.fixture
def request_of(digits):
    forget = {k: jnp.asarray(v[:20]) for k, v in digits.items()}
    retain = {k: jnp.asarray(v[20:120]) for k, v in digits.items()}
    return Request(forget, retain)


def mean(task, variables, part, name="loss"):
    return float(training.evaluate(task, variables, part)[name].mean())


def test_finetune_is_training_continued_on_the_retain_set(digits, request_of):
    """Full-batch SGD on softmax regression, one epoch, against NumPy."""
    task = problems.softmax_regression()
    variables = problems.init(task, digits)
    method = unlearning.finetune(optax.sgd(0.3), num_epochs=1, batch_size=1000)
    updated, memory = method.update(jax.random.key(0), task, variables, (), request_of)
    x = np.asarray(request_of.retain["inputs"]).reshape(100, -1)
    y = np.eye(10)[np.asarray(request_of.retain["targets"])]
    kernel = np.asarray(variables["params"]["Dense_0"]["kernel"])
    logits = x @ kernel
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = kernel - 0.3 * x.T @ (probs - y) / 100
    np.testing.assert_allclose(updated["params"]["Dense_0"]["kernel"], expected, atol=1e-5)
    assert memory == ()


def test_an_averaged_transformation_deploys_its_average(digits, request_of):
    """Of full-batch steps, one an epoch: what they led to, averaged by hand; recorded likewise."""
    task = problems.softmax_regression()
    variables = problems.init(task, digits)

    def run(tx, num_epochs):
        options = {"num_epochs": num_epochs, "batch_size": 1000, "record": ("retain",)}
        method = unlearning.descend(OBJECTIVE, tx, over="retain", **options)
        model, trace = method.update(jax.random.key(0), task, variables, (), request_of)
        return model, trace.curves["retain_loss"][-1]

    steps = [run(optax.sgd(0.3), n)[0] for n in (1, 2)]
    deployed, loss = run(training.averaged(optax.sgd(0.3), start=1), 2)
    expected = jax.tree.map(lambda a, b: (a + b) / 2, *steps)
    problems.assert_trees_close(deployed, expected)
    np.testing.assert_allclose(loss, mean(task, deployed, request_of.retain), rtol=1e-5)


def test_retrain_is_training_on_the_retain_set_alone(digits, request_of):
    task, tx = problems.mlp(), optax.adam(1e-2)
    method = unlearning.retrain(tx, num_epochs=3, batch_size=32)
    results = []
    for seed in (0, 1):  # whatever model was there before
        variables = problems.init(task, digits, seed)
        results.append(method.update(jax.random.key(5), task, variables, (), request_of)[0])
    everything = {
        k: jnp.concatenate([v, request_of.forget[k]]) for k, v in request_of.retain.items()
    }
    never, _ = training.train(
        task, tx, everything, jnp.arange(100), jax.random.key(5), num_epochs=3, batch_size=32
    )
    problems.assert_trees_equal(results[0], results[1])
    problems.assert_trees_close(results[0], never.variables)


def test_a_number_of_steps_cuts_the_last_pass_short(digits, request_of):
    """100 retained examples in batches of 25: six steps are a pass and a half."""
    task = problems.mlp()
    variables = problems.init(task, digits)

    def counted(**length):
        tx = optax.chain(optax.adam(1e-3), optax.scale_by_schedule(lambda count: 1.0))
        method = unlearning.descend(OBJECTIVE, tx, over="retain", batch_size=25, **length)
        return method.update(jax.random.key(0), task, variables, (), request_of)[0]

    problems.assert_trees_equal(counted(num_steps=8), counted(num_epochs=2))
    six, one = counted(num_steps=6), counted(num_epochs=1)
    moved = optax.tree.norm(optax.tree.sub(six["params"], one["params"]))
    assert moved > 0
    # One more step moves a parameter by about the learning rate of Adam.
    seven = counted(num_steps=7)
    step = max(float(np.abs(x).max()) for x in jax.tree.leaves(optax.tree.sub(seven, six)))
    assert 0 < step < 3e-3


# The loss of a scalar model is its parameter times the input: the gradient is a mean of inputs.
LINEAR = Task(
    init=lambda rng, batch: {"params": jnp.zeros(())},
    apply=lambda variables, batch, rng, train: (variables["params"], {}),
    loss=lambda outputs, batch: outputs * batch["inputs"],
    metrics=lambda outputs, batch: {},
)


def walk(inputs, tx, **options):
    """How far a scalar model goes down the mean input of each step."""
    parts = {name: {"inputs": jnp.asarray(values)} for name, values in inputs.items()}
    terms = {name: [(1.0, unlearning.objectives.task_loss)] for name in ("forget", "retain")}
    method = unlearning.descend(unlearning.objectives.combine(**terms), tx, labels=False, **options)
    start = {"params": jnp.zeros(())}
    updated, _ = method.update(jax.random.key(0), LINEAR, start, (), Request(**parts))
    return -float(updated["params"])


@pytest.mark.parametrize(
    ("over", "share", "count"), [("retain", 0.4, 2), ("retain", 0.01, 1), ("alternate", 0.4, 4)]
)
def test_a_share_of_the_retain_set_is_used(over, share, count):
    """Powers of two tell by their sum which examples were seen; two are of the forget set."""
    parts = {"forget": [32.0, 64.0], "retain": [1.0, 2.0, 4.0, 8.0, 16.0]}
    options = {"over": over, "retain_fraction": share, "num_epochs": 1, "batch_size": 1}
    assert int(walk(parts, optax.sgd(1.0), **options)).bit_count() == count


def test_the_forget_set_takes_part_in_the_first_epochs_of_an_alternation():
    parts = {"forget": [1.0], "retain": [10.0]}
    options = {"over": "alternate", "num_epochs": 3, "batch_size": 1}
    assert walk(parts, optax.sgd(1.0), forget_epochs=1, **options) == 1 + 30
    assert walk(parts, optax.sgd(1.0), **options) == 3 + 30


@pytest.mark.parametrize(("given", "pulled_to"), [({"params": jnp.asarray(3.0)}, 3.0), (None, 0.5)])
def test_penalties_pull_to_the_original_of_the_request_or_to_the_given_model(given, pulled_to):
    """Two steps of 1/4 on the loss w and the penalty (w - original)^2."""
    objective = unlearning.objectives.combine(
        retain=[(1.0, unlearning.objectives.task_loss)],
        penalty=unlearning.objectives.l2_to_original(1.0),
    )
    method = unlearning.descend(
        objective, optax.sgd(0.25), over="retain", num_steps=2, batch_size=1, labels=False
    )
    request = Request(None, {"inputs": jnp.ones(1)}, original=given)
    start = {"params": jnp.asarray(0.5)}
    updated, _ = method.update(jax.random.key(0), LINEAR, start, (), request)
    expected = 0.5
    for _ in range(2):
        expected -= 0.25 * (1 + 2 * (expected - pulled_to))
    assert float(updated["params"]) == expected


def test_steps_after_the_last_one_change_nothing_momentum_included():
    one = {"inputs": {"forget": [1.0, 1.0]}, "over": "forget", "batch_size": 1}
    assert walk(tx=optax.sgd(1.0), num_steps=3, **one) == 3
    assert walk(tx=optax.sgd(1.0, momentum=0.5), num_steps=1, **one) == 1
    assert walk(tx=optax.sgd(1.0, momentum=0.5), num_steps=3, **one) == 1 + 1.5 + 1.75


def test_the_shorter_part_of_an_alternation_counts_each_of_its_examples_once():
    parts = {"forget": [1.0, 5.0], "retain": [1.0, 2.0, 3.0, 4.0, 10.0]}
    walked = walk(parts, optax.sgd(1.0), over="alternate", num_epochs=1, batch_size=5)
    assert walked == pytest.approx(3 + 4)


@pytest.mark.parametrize(
    ("over", "parts"),
    [
        ("forget", {"forget"}),
        ("retain", {"retain"}),
        *((over, {"forget", "retain"}) for over in ("union", "paired", "alternate")),
    ],
)
def test_what_is_needed_is_what_is_passed_over(over, parts):
    options = {"over": over, "num_epochs": 1, "batch_size": 2}
    method = unlearning.descend(OBJECTIVE, optax.sgd(0.1), **options)
    assert method.needs == parts | {"inputs", "labels"}
    method = unlearning.descend(OBJECTIVE, optax.sgd(0.1), labels=False, **options)
    assert method.needs == parts | {"inputs"}
    method = unlearning.descend(OBJECTIVE, optax.sgd(0.1), inputs=False, **options)
    assert method.needs == parts | {"labels"}
    for part in ("forget", "retain", "validation"):  # metrics read labels
        method = unlearning.descend(
            OBJECTIVE, optax.sgd(0.1), record=(part,), labels=False, **options
        )
        assert method.needs == parts | {part, "inputs", "labels"}


@pytest.mark.parametrize(
    "method",
    [
        unlearning.finetune(optax.adam(1e-3), num_epochs=2),
        unlearning.gradient_ascent(optax.adam(1e-3), num_epochs=2),
        unlearning.retrain(optax.adam(1e-3), num_epochs=1, batch_size=32),
        unlearning.ssd(alpha=2.0),
    ],
    ids=["finetune", "gradient_ascent", "retrain", "ssd"],
)
def test_update_jits_vmaps_over_models_and_repeats(digits, request_of, method):
    """What the library promises of every unlearner: pure, the same eager, jitted and vmapped."""
    task = problems.mlp()
    data = {k: jnp.asarray(v[:120]) for k, v in digits.items()}

    def run(variables, rng):
        variables, memory = method.init(rng, task, variables, data)
        return method.update(rng, task, variables, memory, request_of)[0]

    models_ = [problems.init(task, digits, seed) for seed in (0, 1)]
    keys = jax.random.split(jax.random.key(0), 2)
    separate = [jax.jit(run)(v, k) for v, k in zip(models_, keys, strict=True)]
    problems.assert_trees_equal(separate[0], jax.jit(run)(models_[0], keys[0]))
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *models_)
    together = jax.vmap(run)(stacked, keys)
    for k in range(2):
        problems.assert_trees_close(
            jax.tree.map(lambda x, k=k: x[k], together), separate[k], rtol=1e-4
        )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: unlearning.descend(OBJECTIVE, optax.sgd(0.1), over="retain", batch_size=4),
            "one of num_epochs and num_steps must be given, got None and None",
        ),
        (
            lambda: unlearning.descend(
                OBJECTIVE, optax.sgd(0.1), over="retain", batch_size=4, num_steps=0
            ),
            "num_steps must be >= 1, got 0",
        ),
        (lambda: unlearning.finetune(optax.sgd(1.0), num_epochs=0), "num_epochs must be >= 1"),
        (lambda: unlearning.finetune(optax.sgd(1.0), batch_size=0), "batch_size must be >= 1"),
        (
            lambda: unlearning.descend(
                OBJECTIVE, optax.sgd(1.0), over="test", num_epochs=1, batch_size=1
            ),
            "over must be one of .* got 'test'",
        ),
    ],
)
def test_bad_values_are_named_at_construction(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_stop_needs_what_it_reads():
    stop = lambda per_example, request: jnp.asarray(True)
    with pytest.raises(ValueError, match="stop needs record, got none"):
        unlearning.descend(
            OBJECTIVE, optax.sgd(0.1), over="retain", num_epochs=1, batch_size=8, stop=stop
        )
    with pytest.raises(ValueError, match="stop reads what watch sees, got none"):
        unlearning.run_parts(
            None, None, jax.random.key(0), {"retain": {"inputs": jnp.ones((2, 1))}},
            over="union", batch_size=1, num_epochs=1, stop=stop,
        )  # fmt: skip


def test_a_run_that_never_stops_is_the_plain_one(digits, request_of):
    task = problems.softmax_regression()
    variables = problems.init(task, digits)
    results = []
    for stop in (None, lambda per_example, request: per_example["retain"]["loss"].mean() < 0):
        method = unlearning.descend(
            OBJECTIVE, optax.adam(0.1), over="retain", num_epochs=3, batch_size=40,
            record=("retain",), stop=stop,
        )  # fmt: skip
        results.append(method.update(jax.random.key(0), task, variables, (), request_of))
    problems.assert_trees_close(*results)
