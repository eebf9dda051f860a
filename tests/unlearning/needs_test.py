from collections.abc import Mapping

import jax
import jax.numpy as jnp
import pytest

from tests import problems
from tests.unlearning.methods import METHODS
from unlearnjax import unlearning
from unlearnjax.types import Request, Unlearner


class Untouchable(Mapping):
    """Data that raises when it is looked at."""

    def _refuse(self, *args):
        raise AssertionError("this data was not to be touched")

    __getitem__ = __iter__ = __len__ = __contains__ = keys = items = values = _refuse


@pytest.mark.parametrize("name", METHODS)
def test_methods_run_on_what_they_need_with_everything_else_out_of_reach(name, digits):
    method = METHODS[name]
    task = problems.mlp()
    variables = problems.init(task, digits)
    small = {k: v[:70] for k, v in digits.items()}

    def given(part):
        return small if part in method.needs else Untouchable()

    enforced = unlearning.enforce(method)
    deployed, memory = enforced.init(jax.random.key(0), task, variables, given("train"))
    request = Request(given("forget"), given("retain"), given("validation"))
    enforced.update(jax.random.key(1), task, deployed, memory, request)


def spy(needs):
    seen = {}

    def init(rng, task, variables, data):
        seen["train"] = data
        return variables, ()

    def update(rng, task, variables, memory, request):
        seen.update(request._asdict())
        return variables, memory

    return unlearning.enforce(Unlearner(init, update, frozenset(needs))), seen


def test_only_needed_parts_arrive_and_labels_only_if_needed(digits):
    small = {k: v[:5] for k, v in digits.items()}
    method, seen = spy({"forget", "inputs"})
    method.init(None, None, {}, small)
    method.update(None, None, {}, (), Request(small, small, small))
    assert seen["train"] is None and seen["retain"] is None and seen["validation"] is None
    assert "targets" not in seen["forget"] and "inputs" in seen["forget"]
    method, seen = spy({"forget", "retain", "labels", "train"})
    method.init(None, None, {}, small)
    method.update(None, None, {}, (), Request(small, small))
    assert "targets" in seen["forget"] and "targets" in seen["train"]
    assert "inputs" not in seen["forget"] and "inputs" not in seen["train"]


def test_a_request_without_inputs_is_for_methods_that_read_none():
    prompts = {"condition": jnp.arange(3), "index": jnp.arange(3)}
    method, seen = spy({"forget"})
    method.update(None, None, {}, (), Request(prompts))
    assert seen["forget"] == prompts
    method, _ = spy({"forget", "inputs"})
    why = r"^this unlearner needs 'inputs' of 'forget', got \['condition', 'index'\]$"
    with pytest.raises(ValueError, match=why):
        method.update(None, None, {}, (), Request(prompts))
    # Labels are withheld or handed over; a task may have none.
    method, seen = spy({"forget", "labels"})
    method.update(None, None, {}, (), Request(prompts))
    assert seen["forget"] == prompts


def test_a_need_not_given_and_a_need_unknown_are_refused(digits):
    method, _ = spy({"retain"})
    with pytest.raises(ValueError, match="needs 'retain' data and none was given"):
        method.update(None, None, {}, (), Request(digits))
    method, _ = spy({"train"})
    with pytest.raises(ValueError, match="needs 'train' data"):
        method.init(None, None, {}, None)
    with pytest.raises(ValueError, match=r"needs must be among .* got \['teacher'\]"):
        spy({"teacher"})


GRAPH = {"senders": jnp.array([0, 1, 2]), "mask": jnp.array([True, True, False])}
MODEL = {"params": jnp.ones(2), "graph": GRAPH}


def test_what_a_request_edits_is_in_place_and_the_original_is_as_it_was():
    cut = {"senders": jnp.array([0, 0, 2]), "mask": jnp.array([True, False, False])}
    method, seen = spy(set())
    variables, _ = method.update(None, None, MODEL, (), Request({}, edited={"graph": cut}))
    assert variables == {"params": MODEL["params"], "graph": cut}
    assert seen["original"] is MODEL and seen["edited"] == {"graph": cut}
    first = {"params": jnp.zeros(2), "graph": GRAPH}
    method.update(None, None, MODEL, (), Request({}, original=first, edited={"graph": cut}))
    assert seen["original"] is first
    # Without edits nothing is replaced, and nobody is made the original.
    assert method.update(None, None, MODEL, (), Request({}))[0] is MODEL
    assert seen["original"] is None
    # Of an ensemble the collections are stacked; what is edited is one of them.
    stacked = jax.tree.map(lambda x: jnp.stack([x, x, x]), MODEL)
    edited = method.update(None, None, stacked, (), Request({}, edited={"graph": cut}))[0]
    assert edited["graph"] is cut and edited["params"].shape == (3, 2)


def test_a_request_that_leaves_the_graph_or_edits_something_else_is_refused():
    task = problems.mlp()._replace(edited=("graph",))
    method, _ = spy(set())
    with pytest.raises(ValueError, match=r"^a request to this task must have edited=\{'graph'"):
        method.update(None, task, MODEL, (), Request({}))
    with pytest.raises(ValueError, match=r"edited=\{'graph': .* got \['other'\]"):
        method.update(None, task, MODEL, (), Request({}, edited={"other": GRAPH}))
    for name in ("params", "other"):
        with pytest.raises(ValueError, match=rf"collections \['graph'\], got \['{name}'\]"):
            method.update(None, None, MODEL, (), Request({}, edited={name: GRAPH}))
    others = (
        {**GRAPH, "senders": jnp.arange(4)},
        {**GRAPH, "senders": jnp.arange(3.0)},
        {"senders": GRAPH["senders"]},
    )
    for other in others:
        with pytest.raises(ValueError, match=r"^edited\['graph'\] must be like the model's \["):
            method.update(None, None, MODEL, (), Request({}, edited={"graph": other}))
