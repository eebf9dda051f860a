import jax
import pytest

from unlearnjax import unlearning
from unlearnjax.types import Request, Unlearner


def link(add, seen, needs=frozenset(), serve=lambda task: task):
    """Doubles at `init`, adds at `update`, and writes down what it is given."""

    def init(rng, task, variables, data):
        seen.append(("init", task, data))
        return {"x": variables["x"] * 2}, ("fresh", add)

    def update(rng, task, variables, memory, request):
        seen.append(
            (task, variables["x"], request.original["x"], jax.random.key_data(rng).tolist())
        )
        return {"x": variables["x"] + add}, (*memory, "used")

    return Unlearner(init, update, frozenset(needs), serve)


def test_a_chain_hands_on_model_task_and_memory_and_keeps_the_teacher():
    seen = []
    longer = lambda task: task + "'"
    method = unlearning.chain(link(1, seen, {"forget"}, longer), link(10, seen, {"train"}, longer))
    assert method.needs == {"forget", "train"}
    deployed, memory = method.init(jax.random.key(0), "task", {"x": 3}, "data")
    assert deployed == {"x": 12} and memory == (("fresh", 1), ("fresh", 10))
    assert seen == [("init", "task", "data"), ("init", "task'", "data")]
    seen.clear()
    updated, memory = method.update(jax.random.key(0), "task", deployed, memory, Request(None))
    assert updated == {"x": 23}
    assert memory == (("fresh", 1, "used"), ("fresh", 10, "used"))
    assert [s[:3] for s in seen] == [("task", 12, 12), ("task'", 13, 12)]
    assert seen[0][3] != seen[1][3]  # a key each
    assert method.serve("task") == "task''"


def test_a_teacher_from_before_the_chain_stays():
    seen = []
    method = unlearning.chain(link(1, seen), link(10, seen))
    request = Request(None, original={"x": 7})
    method.update(jax.random.key(0), "task", {"x": 3}, ((), ()), request)
    assert [s[2] for s in seen] == [7, 7]


def test_no_unlearners_are_refused():
    with pytest.raises(ValueError, match="at least one unlearner, got none"):
        unlearning.chain()


def test_the_memory_of_another_chain_is_refused():
    method = unlearning.chain(link(1, []), link(10, []))
    for memory in (((),), ((), (), ())):
        with pytest.raises(ValueError, match="zip"):
            method.update(jax.random.key(0), "task", {"x": 3}, memory, Request(None))
