import contextlib
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import unlearn
from experiments.common import build, measure
from tests import problems
from unlearnjax import models, parallel, tasks, unlearning
from unlearnjax.types import Request, Unlearner


class Logits(nn.Module):
    """A model without 'features'."""

    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(10)(x.reshape(len(x), -1))


def test_every_method_that_a_model_cannot_serve_is_named_with_the_reason(digits):
    forget, retain = ({k: jnp.asarray(v[s]) for k, v in digits.items()} for s in ([1, 2], [3, 4]))
    task = tasks.classification(tasks.from_linen(Logits()))
    bench = types.SimpleNamespace(
        task=task,
        train=forget,
        request=Request(forget, retain, retain),
        start=None,
        carried=None,
        requests=(),
    )
    tx = optax.sgd(0.1)
    unlearners = {
        "boundary_expand": unlearning.boundary_expand(tx),
        "laf": unlearning.laf(tx),
        "acu": unlearning.acu(16, backbone="model"),
        "finetune": unlearning.finetune(tx),
    }
    why = r"the model must return \{.*'features'.*\}, it returns \['logits'\] alone"
    forgetters = {
        name: measure.forgetter(bench, lambda values, one=one: one, contextlib.nullcontext)
        for name, one in unlearners.items()
    }
    with pytest.raises(ValueError, match=f"^boundary_expand: {why}; laf: {why}; acu: {why}$"):
        measure.validate(forgetters)
    measure.validate({"finetune": forgetters["finetune"]})


def test_methods_that_need_classes_refuse_a_task_without_by_name(digits):
    part = {"inputs": jnp.ones((4, 3)), "targets": jnp.arange(4.0), "index": jnp.arange(4)}
    task = tasks.regression(tasks.from_linen(models.MLP(num_classes=1, hidden=(2,))))
    bench = types.SimpleNamespace(
        task=task,
        train=part,
        request=Request(part, part, part),
        start=None,
        carried=None,
        requests=(),
    )
    tx = optax.sgd(0.1)
    needing = {
        "random_label": unlearning.random_label(tx),
        "salun": unlearning.salun(tx),
        "boundary_shrink": unlearning.boundary_shrink(tx),
        "boundary_expand": unlearning.boundary_expand(tx),
        "acu": unlearning.acu(16, backbone="inputs"),
        "gradient_ascent": unlearning.gradient_ascent(tx),
        "gradient_ascent_plus": unlearning.gradient_ascent_plus(tx),
    }
    others = {
        "bounded": unlearning.gradient_ascent(tx, max_loss=1.0),
        "scrub": unlearning.scrub(tx, temperature=1.0),
        "ssd": unlearning.ssd(),
    }
    forgetters = {
        name: measure.forgetter(bench, lambda values, one=one: one, contextlib.nullcontext)
        for name, one in (needing | others).items()
    }
    with pytest.raises(ValueError) as raised:
        measure.validate(forgetters)
    why = "the task must have classes, 'logits' [B, C] with C >= 2, its outputs are features"
    refused = str(raised.value).split("; ")
    assert [line.split(": ")[0] for line in refused] == list(needing)
    assert all(why in line and "logits [" in line for line in refused)


def test_perturbations_are_relative_and_of_the_stated_size():
    params = {"a": 100 * jnp.ones(4000), "b": jnp.full(4000, 1e-3, jnp.bfloat16)}
    given = {"params": params, "batch_stats": {"mean": jnp.ones(3)}}
    moved = measure.perturbed(given, jax.random.key(0), 0.1)
    for name, value in params.items():
        change = moved["params"][name].astype(jnp.float32) / value.astype(jnp.float32) - 1
        assert moved["params"][name].dtype == value.dtype
        assert float(change.std()) == pytest.approx(0.1, rel=0.1)
        assert abs(float(change.mean())) < 0.01
    assert moved["batch_stats"] is given["batch_stats"]
    tiny = measure.perturbed({"params": {**params, "n": jnp.arange(9)}}, jax.random.key(0), 1e-6)
    assert jnp.array_equal(tiny["params"]["n"], jnp.arange(9))  # integers are no roundings
    assert not jnp.array_equal(tiny["params"]["b"], params["b"])  # bfloat16 rounds at 0.8 %
    assert not jnp.array_equal(moved["params"]["a"] / 100, moved["params"]["b"] * 1e3)


def test_fields_that_no_device_holds_stay_on_the_host(digits):
    part = {name: value[:4] for name, value in digits.items()}
    fields = {"who": np.array(["ann", "anna", "bob", "ann"]), "age": np.linspace(0, 1, 4)}
    placed = measure.place({**part, **fields})
    assert sorted(placed) == ["age", "index", "inputs", "targets"]
    assert placed["age"].dtype == jnp.float32
    with jax.set_mesh(parallel.mesh(jax.devices()[:2])):
        assert sorted(measure.place({**part, **fields})) == sorted(placed)
    assert measure.place(np.arange(3)).tolist() == [0, 1, 2]


def keyed() -> Unlearner:
    """Remembers a random key, and adds what it draws from it."""

    def init(rng, task, variables, data):
        return variables, {"rng": rng}

    def update(rng, task, variables, memory, request):
        noise = lambda x: x + jax.random.normal(memory["rng"], x.shape)
        return {**variables, "params": jax.tree.map(noise, variables["params"])}, memory

    return Unlearner(init, update, frozenset({"forget"}))


@pytest.mark.parametrize("name", ["finetune", "acu", "keyed"])
def test_what_is_prepared_is_not_compiled_again_and_gives_the_same(name, digits, monkeypatch):
    """Also with a memory in float64, whose type a shape alone would lose."""
    forget, retain = (
        {k: jnp.asarray(v[s]) for k, v in digits.items()} for s in ([1, 2], [3, 4, 5])
    )
    train = jax.tree.map(lambda *x: jnp.concatenate(x), forget, retain)
    task = tasks.classification(tasks.from_linen(Logits()))
    bench = types.SimpleNamespace(
        task=task,
        train=train,
        request=Request(forget, retain),
        start=None,
        carried=None,
        requests=(),
    )
    make = {
        "finetune": lambda values: unlearning.finetune(optax.sgd(0.1), batch_size=3),
        "keyed": lambda values: keyed(),
        "acu": lambda values: unlearning.acu(16, backbone="inputs", gamma=100.0),
    }[name]
    compiled = []
    counted = lambda fn: lambda *args: compiled.append(args) or fn(*args)
    for name_of in ("compile_costed", "compile_traced"):
        monkeypatch.setattr(measure.audit, name_of, counted(getattr(measure.audit, name_of)))
    variables = task.init(jax.random.key(0), train)
    late, ahead = (measure.forgetter(bench, make, contextlib.nullcontext) for _ in range(2))
    expected, _ = late.forget(jax.random.key(1), variables)
    measure.validate({name: ahead})
    measure.prepare([ahead.prepare])
    assert len(compiled) == 4
    actual, cost = ahead.forget(jax.random.key(1), variables)
    assert len(compiled) == 4 and cost["compile_seconds"] > 0
    problems.assert_trees_equal(actual, expected)


def test_what_is_rehearsed_is_not_compiled_again():
    """And takes no step of relearning, which would take time."""
    config = unlearn.get_config("digits,model=mlp,train=120,test=60,seeds=1,method=finetune")
    bench = measure.bench(config, build.problem(config, None))
    steps = []
    relearn = bench.relearn
    counted = lambda *args: steps.append(int(relearn(*args))) or steps[-1]
    context = bench.evaluation.prepare(None, bench)
    measure.rehearse(bench._replace(relearn=counted), context)
    assert steps == [0]
    variables = bench.task.init(jax.random.key(1), bench.train)
    compiled = []

    def listener(event, _, fun_name="", **kwargs):
        if "backend_compile" in event:
            compiled.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(listener)
    moved = measure.perturbed(variables, jax.random.key(2), 1e-6)
    bench.evaluation.observe(context, bench.task, moved)
    assert int(bench.relearn(bench.task, variables, 2.0)) == config.evaluate.relearn.max_steps
    jax.monitoring.unregister_event_duration_listener(listener)
    assert not compiled


def test_requests_one_after_another_find_the_model_and_the_memory_that_the_one_before_left():
    """What each cost is added up, but for the largest memory of one."""

    def init(rng, task, variables, data):
        return variables, jnp.zeros(3)

    def update(rng, task, variables, memory, request):
        moved = {"params": 2 * variables["params"] + request.forget["inputs"].sum()}
        return moved, jnp.concatenate([memory, jnp.ones(1)])

    method = Unlearner(init, update, frozenset({"forget"}))
    part = lambda *values: {"inputs": jnp.array(values), "index": jnp.arange(len(values))}
    one, two = Request(part(1.0, 2.0)), Request(part(10.0))
    bench = types.SimpleNamespace(
        task=None,
        train=part(0.0),
        request=None,
        requests=(one, two, one),
        start=None,
        carried=None,
    )
    forgetter = measure.forgetter(bench, lambda values: method, contextlib.nullcontext)
    seen = []
    start = {"params": jnp.ones(())}
    found, cost = forgetter.forget(jax.random.key(0), start, after=seen.append)
    assert [float(model["params"]) for model in seen] == [5.0, 20.0]
    assert float(found["params"]) == 43.0
    assert cost["memory_bytes"] == 12.0  # of what `init` kept
    alone = measure.forgetter(
        types.SimpleNamespace(**{**vars(bench), "requests": (), "request": one}),
        lambda values: method,
        contextlib.nullcontext,
    )
    never = lambda variables: pytest.fail("there is no other request")
    model, single = alone.forget(jax.random.key(0), start, after=never)
    assert float(model["params"]) == 5.0
    assert cost["flops"] > single["flops"] and cost["peak_bytes"] < 2 * single["peak_bytes"]
