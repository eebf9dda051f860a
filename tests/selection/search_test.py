"""Against finite differences, enumeration and the definition."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
import scipy.sparse.linalg
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from tests import problems
from unlearnjax import selection, tasks, training
from unlearnjax.unlearning import objectives

N, GAMMA = 14, 0.05


def apply(variables, batch, rng, train):
    return {"logits": batch["inputs"] @ variables["params"]["w"]}, variables


TASK = tasks.classification(tasks.Model(lambda rng, batch: {}, apply))
RIDGE = selection.Lower(retain=[(1.0, objectives.task_loss)], penalty=objectives.l2(GAMMA / 2))


@pytest.fixture(scope="module")
def convex():
    """Fourteen digits of two classes, five features each, and the optimum on all of them."""
    pixels, labels = load_digits(return_X_y=True)
    rows = np.flatnonzero(np.isin(labels, [3, 8]))[:N]
    features = pixels[rows][:, [10, 19, 27, 36, 43]] / 8 - 1
    targets = (labels[rows] == 8).astype(int)
    return features, targets, fitted(features, targets)


@pytest.fixture(scope="module")
def every_set(convex):
    """All 1,001 sets of four of fourteen, and the loss on each once retrained without it."""
    features, targets, _ = convex
    sets, values = list(itertools.combinations(range(N), 4)), []
    for chosen in sets:
        kept = np.setdiff1d(np.arange(N), chosen)
        logits = features[list(chosen)] @ fitted(features[kept], targets[kept])
        signs = np.where(targets[list(chosen)] == 1, 1, -1)
        values.append(np.log1p(np.exp(-signs * (logits[:, 1] - logits[:, 0]))).sum())
    return sets, np.array(values)


def fitted(features, targets, total=N):
    """The minimum of the mean over `total` (of which some may be left out) plus the penalty."""
    fit = LogisticRegression(
        C=2 / (total * GAMMA), fit_intercept=False, tol=1e-10, max_iter=10_000
    ).fit(features, targets)
    half = fit.coef_[0] / 2
    return np.stack([-half, half], axis=1)


@pytest.mark.parametrize("objective", ["finetune", "random_label", "gradient_ascent_plus", "ridge"])
def test_the_unrolled_gradient_is_that_of_finite_differences(convex, objective):
    features, targets, start = convex
    lower = RIDGE if objective == "ridge" else selection.lower.BY_NAME[objective]()
    with jax.enable_x64(True):
        data = {"inputs": jnp.asarray(features), "targets": jnp.asarray(targets)}
        variables = {"params": {"w": jnp.asarray(start)}}
        call = jax.jit(
            partial(
                selection.hypergradient,
                TASK,
                variables,
                data,
                rng=jax.random.key(0),
                lower=lower,
                tx=optax.sgd(0.3, momentum=0.9),
                mode="unrolled",
                gamma=0.1,
                lower_epochs=3,
                batch_size=5,
            )
        )
        weights = np.random.default_rng(0).uniform(0.2, 0.8, N)
        value, gradient = call(weights=weights)
        for i in range(N):
            step = np.zeros(N)
            step[i] = 1e-5
            ahead, behind = (float(call(weights=weights + s)[0]) for s in (step, -step))
            assert gradient[i] == pytest.approx((ahead - behind) / 2e-5, abs=1e-6)
    assert np.isfinite(value)


def test_the_implicit_gradient_is_that_of_refitting(convex):
    features, targets, start = convex
    weights = np.random.default_rng(1).uniform(0.1, 0.6, N)

    @jax.jit
    def optimum(weights):
        """Newton's method on the weighted objective."""

        def total(w):
            logits = jnp.asarray(features) @ w.reshape(start.shape)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(targets))
            return jnp.mean((1 - weights) * losses) + GAMMA / 2 * jnp.sum(w**2), losses

        slope = jax.grad(lambda w: total(w)[0])
        step = lambda _, w: w - jnp.linalg.solve(jax.jacobian(slope)(w), slope(w))
        w = jax.lax.fori_loop(0, 30, step, jnp.asarray(start).ravel())
        return w, total(w)[1]

    with jax.enable_x64(True):
        data = {"inputs": jnp.asarray(features), "targets": jnp.asarray(targets)}
        value, gradient = selection.hypergradient(
            TASK,
            {"params": {"w": optimum(weights)[0].reshape(start.shape)}},
            data,
            jnp.asarray(weights),
            jax.random.key(0),
            lower=RIDGE,
            tx=optax.sgd(0.5),
            mode="implicit",
            lower_epochs=300,
            batch_size=N,
            damping=0.0,
            cg_steps=30,
        )
        upper = lambda w: float(w @ np.asarray(optimum(w)[1]))
        assert float(value) == pytest.approx(upper(weights), abs=1e-8)
        for i in range(N):
            step = np.zeros(N)
            step[i] = 1e-4
            slope = (upper(weights + step) - upper(weights - step)) / 2e-4
            assert gradient[i] == pytest.approx(slope, abs=1e-5)


def test_the_gradient_through_signs_is_the_loss(convex):
    features, targets, start = convex
    data = {"inputs": jnp.asarray(features, jnp.float32), "targets": jnp.asarray(targets)}
    variables = {"params": {"w": jnp.asarray(start, jnp.float32)}}
    weights = jnp.full(N, 0.3)
    options = {"lower": selection.lower.finetune(), "gamma": 0.5, "lower_epochs": 1}
    # A lower level that does not move leaves the losses of the given model.
    value, gradient = selection.hypergradient(
        TASK, variables, data, weights, jax.random.key(0), tx=optax.sgd(0.0), **options
    )
    losses = training.evaluate(TASK, variables, data)["loss"]
    np.testing.assert_allclose(gradient, losses + 2 * 0.5 * weights, rtol=1e-5)
    assert float(value) == pytest.approx(
        float(weights @ losses + 0.5 * weights @ weights), rel=1e-5
    )
    # Losses count relative to a reference.
    value, gradient = selection.hypergradient(
        TASK, variables, data, weights, jax.random.key(0), tx=optax.sgd(0.0),
        reference=losses, **options,
    )  # fmt: skip
    np.testing.assert_allclose(gradient, 2 * 0.5 * weights, atol=1e-6)
    assert float(value) == pytest.approx(float(0.5 * weights @ weights), rel=1e-5)
    # One step by signs of one batch moves every parameter by the learning rate.
    moved = selection.hypergradient(
        TASK, variables, data, weights, jax.random.key(0), tx=optax.sgd(0.01), **options
    )[1]
    slope = jax.grad(
        lambda w: jnp.mean(0.7 * TASK.loss(apply({"params": {"w": w}}, data, None, False)[0], data))
    )(variables["params"]["w"])
    stepped = {"params": {"w": variables["params"]["w"] - 0.01 * jnp.sign(slope)}}
    expected = training.evaluate(TASK, stepped, data)["loss"] + 2 * 0.5 * weights
    np.testing.assert_allclose(moved, expected, rtol=1e-4)


def test_a_search_starts_from_equal_weights_whose_square_counts(convex, gamma=2.0):
    """The lower level does not move: `w = k / G` for every example."""
    features, targets, start = convex
    data = {"inputs": jnp.asarray(features, jnp.float32), "targets": jnp.asarray(targets)}
    variables = {"params": {"w": jnp.asarray(start, jnp.float32)}}
    given = {"lower": selection.lower.finetune(), "tx": optax.sgd(0.0), "num_epochs": 1}
    found = selection.search(TASK, variables, data, jax.random.key(0), size=4, gamma=gamma, **given)
    expected = 4 / N * losses_of(features, targets, start).sum() + gamma * N * (4 / N) ** 2
    assert float(found.objective[0]) == pytest.approx(expected, rel=1e-5)


def losses_of(features, targets, w):
    logits = features @ w
    return np.log(np.exp(logits).sum(1)) - logits[np.arange(N), targets]


@pytest.mark.parametrize("options", [{}, {"learning_rate": 0.3, "round_every": 2}])
def test_weights_go_down_the_losses_and_are_rounded_now_and_then(convex, options):
    """The lower level does not move. The projection is a shift, found by bisection, and a clip."""
    features, targets, start = convex
    data = {"inputs": jnp.asarray(features, jnp.float32), "targets": jnp.asarray(targets)}
    variables = {"params": {"w": jnp.asarray(start, jnp.float32)}}
    given = {"lower": selection.lower.finetune(), "tx": optax.sgd(0.0), "num_epochs": 3}
    found = selection.search(TASK, variables, data, jax.random.key(0), size=1, **given, **options)
    losses, weights = losses_of(features, targets, start), np.full(N, 1 / N)
    for number in (1, 2, 3):
        moved = weights - options.get("learning_rate", 0.01) * losses
        over = lambda shift, moved=moved: np.clip(moved - shift, 0, 1).sum() - 1
        weights = np.clip(moved - scipy.optimize.bisect(over, -2, 2, xtol=1e-12), 0, 1)
        if number % options.get("round_every", 20) == 0:
            weights = np.eye(N)[weights.argmax()]
    np.testing.assert_allclose(found.weights, weights, atol=1e-5)
    assert np.flatnonzero(found.chosen).tolist() == [weights.argmax()]


@pytest.mark.parametrize(("options", "steps"), [({}, 2), ({"lower_epochs": 3, "batch_size": 5}, 9)])
def test_the_lower_level_takes_so_many_steps(convex, options, steps):
    """Every step moves the model by the same amount, whatever its gradient is."""
    features, targets, start = convex
    data = {"inputs": jnp.asarray(features, jnp.float32), "targets": jnp.asarray(targets)}
    variables = {"params": {"w": jnp.asarray(start, jnp.float32)}}
    along = np.random.default_rng(2).normal(size=start.shape) / 10
    _, gradient = selection.hypergradient(
        TASK,
        variables,
        data,
        jnp.full(N, 0.3),
        jax.random.key(0),
        lower=selection.lower.finetune(),
        tx=optax.stateless(lambda gradients, params: {"w": jnp.asarray(along, jnp.float32)}),
        **options,
    )
    np.testing.assert_allclose(
        gradient, losses_of(features, targets, start + steps * along), rtol=1e-4
    )


@pytest.mark.parametrize(
    ("options", "damping", "steps"),
    [({}, 1e-3, 20), ({"damping": 0.5}, 0.5, 20), ({"cg_steps": 2}, 1e-3, 2)],
)
def test_the_implicit_gradient_is_of_the_damped_system(convex, options, damping, steps):
    """At a model that stays where it is, by derivatives in NumPy and SciPy's iterations."""
    features, targets, start = convex
    weights = np.random.default_rng(1).uniform(0.1, 0.6, N)
    with jax.enable_x64(True):
        _, gradient = selection.hypergradient(
            TASK,
            {"params": {"w": jnp.asarray(start)}},
            {"inputs": jnp.asarray(features), "targets": jnp.asarray(targets)},
            jnp.asarray(weights),
            jax.random.key(0),
            lower=RIDGE,
            tx=optax.sgd(0.0),
            mode="implicit",
            gamma=0.7,
            **options,
        )
    p = np.exp(features @ start)
    p /= p.sum(1, keepdims=True)
    slopes = (features[:, :, None] * (p - np.eye(2)[targets])[:, None, :]).reshape(N, -1)
    spread = p[:, :, None] * np.eye(2) - p[:, :, None] * p[:, None, :]
    curved = np.einsum("n,ni,nj,ncd->icjd", 1 - weights, features, features, spread)
    hessian = curved.reshape(10, 10) / N + (GAMMA + damping) * np.eye(10)
    solved, _ = scipy.sparse.linalg.cg(hessian, weights @ slopes, maxiter=steps, rtol=1e-10)
    expected = losses_of(features, targets, start) + 1.4 * weights + slopes @ solved / N
    np.testing.assert_allclose(gradient, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("mode", "direction"),
    [
        ("unrolled", "worst"),
        ("implicit", "easiest"),
        pytest.param("unrolled", "easiest", marks=pytest.mark.slow),
        pytest.param("implicit", "worst", marks=pytest.mark.slow),
    ],
)
def test_the_best_of_all_sets_is_found_where_they_can_be_enumerated(
    convex, every_set, mode, direction
):
    """Retrained without it, which set is fitted best (or worst)?"""
    features, targets, start = convex
    sets, losses = every_set
    values = losses if direction == "worst" else -losses
    data = {"inputs": jnp.asarray(features, jnp.float32), "targets": jnp.asarray(targets)}
    found = jax.jit(
        lambda rng: selection.search(
            TASK,
            {"params": {"w": jnp.asarray(start, jnp.float32)}},
            data,
            rng,
            size=4,
            lower=RIDGE,
            tx=optax.sgd(1.0),
            mode=mode,
            direction=direction,
            num_epochs=60,
            learning_rate=0.1,
            lower_epochs=60,
            batch_size=N,
            round_every=100,
        )
    )(jax.random.key(0))
    chosen = tuple(np.flatnonzero(found.chosen))
    assert len(chosen) == 4
    # The easiest set is the maximum of a function that is not concave: near the best is enough.
    slack = {"worst": 0.01, "easiest": 0.03}[direction] * np.ptp(values)
    assert values[sets.index(chosen)] <= values.min() + slack
    assert found.objective[-1] < found.objective[0]


def test_classes_are_selected_as_wholes_and_models_can_be_mapped_over():
    digits = {k: jnp.asarray(v) for k, v in problems.digits(200).items()}
    task = problems.mlp((16,))
    options = {"num_epochs": 15, "batch_size": 50}
    fit = lambda rng: (
        training.train(task, optax.adam(5e-3), digits, jnp.arange(200), rng, **options)[0].variables
    )
    models = jax.jit(jax.vmap(fit))(jax.random.split(jax.random.key(0), 2))

    def find(variables, rng):
        return selection.search(
            task,
            variables,
            digits,
            rng,
            size=2,
            lower=selection.lower.random_label(),
            tx=optax.sgd(1e-3),
            groups=np.asarray(digits["targets"]),
            num_epochs=5,
            learning_rate=0.1,
        )

    keys = jax.random.split(jax.random.key(1), 2)
    found = jax.jit(jax.vmap(find))(models, keys)
    assert found.chosen.shape == (2, 10) and (found.chosen.sum(1) == 2).all()
    alone = jax.jit(find)(jax.tree.map(lambda x: x[1], models), keys[1])
    np.testing.assert_allclose(found.weights[1], alone.weights, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size must lie in \\[1, 14\\), got 0"),
        ({"size": 14}, "size must lie in \\[1, 14\\), got 14"),
        ({"groups": np.zeros(3, int)}, "groups must be \\[14\\] integers"),
        ({"groups": np.arange(14) * 2}, "groups must be numbered 0, 1, ... without gaps"),
        ({"mode": "adjoint"}, "mode must be one of"),
        ({"direction": "best"}, "direction must be one of"),
        ({"learning_rate": 0.0}, "learning_rate must be > 0"),
        ({"targets": False}, "the lower objective and the loss of what is selected need 'targets'"),
    ],
)
def test_bad_values_are_named(convex, options, message):
    features, targets, start = convex
    data = {"inputs": jnp.asarray(features), "targets": jnp.asarray(targets)}
    if "targets" in options:
        del data["targets"]
        options = {}
    given = {"size": 4, "lower": RIDGE, "tx": optax.sgd(0.1), **options}
    with pytest.raises(ValueError, match=message):
        selection.search(TASK, {"params": {"w": start}}, data, jax.random.key(0), **given)
    if not options:
        return
    numbers = {**data, "targets": jnp.asarray(targets, jnp.float32)}
    with pytest.raises(ValueError, match="a lower objective with wrong labels needs classes"):
        given = {"size": 4, "lower": selection.lower.random_label(), "tx": optax.sgd(0.1)}
        selection.search(TASK, {"params": {"w": start}}, numbers, jax.random.key(0), **given)
    weights = jnp.zeros(3)
    data["targets"] = jnp.asarray(targets)
    with pytest.raises(ValueError, match="weights must be"):
        selection.hypergradient(
            TASK, {}, data, weights, jax.random.key(0), lower=RIDGE, tx=optax.sgd(0.1)
        )
