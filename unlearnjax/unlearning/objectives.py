"""What iterative unlearners minimise: per-example terms on each part of a request.

A term is a pure function `(task, outputs, batch, teachers) -> [B]` of the student's outputs and the
outputs of frozen models on the same batch. `combine` adds terms up into the loss that `descend`
minimises.
"""

import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import optax

from unlearnjax import checks, tasks
from unlearnjax.types import PARTS, Array, Batch, Outputs, PyTree, Task, Variables

Term = Callable[[Task, Outputs, Batch, Mapping[str, Outputs]], Array]
Terms = Sequence[tuple[float, Term]]
# (parameters, parameters of the original model) -> scalar
Penalty = Callable[[PyTree, PyTree], Array]
# (task, variables, frozen models by name, batch, key of the step) -> batch
Prepare = Callable[[Task, Variables, Mapping[str, Variables], Batch, Array], Batch]
# (parameters -> scalar) -> ((parameters, key) -> scalar)
Smooth = Callable[[Callable[[PyTree], Array]], Callable[[PyTree, Array], Array]]
# (task, frozen models by name) -> training.step.LossFn; the batch has `part` [B]
Objective = Callable[[Task, Mapping[str, Variables]], Callable]

WEIGHTINGS = ("part", "example")


def combine(
    *,
    forget: Terms = (),
    retain: Terms = (),
    parts: Mapping[str, Terms] | None = None,
    penalty: Penalty | None = None,
    train: bool = False,
    weighting: str = "part",
    prepare: Prepare | None = None,
    views: Sequence[str] = (),
    smooth: Mapping[str, Smooth] | None = None,
) -> Objective:
    """Sum over terms of `coefficient * mean of the term`, each over its part of the batch.

    Args:
      forget, retain: (coefficient, term) pairs.
      parts: `{part: pairs}` for any of `types.PARTS`; the two above are short for two of them.
      penalty: added once per step.
      train: whether the student runs in training mode, with dropout, updates of running statistics
        and augmentation. Teachers run in evaluation mode, on the student's draw.
      weighting: what a mean is taken over. 'part': each part by itself, so that coefficients do
        not depend on how many examples of which part a batch happens to hold; in a shuffled union
        a forgotten example then weighs `n_retain / n_forget` times as much as a retained one.
        'example': the whole step, so that every example weighs alike. Where a step holds one part
        only both are the same; a part that a batch lacks contributes nothing.
      prepare: `(task, variables, teachers, batch, key) -> batch` changes the batch before the step:
        targets drawn anew, samples of the present student. No gradient goes through it, and
        teachers see the changed batch, so that nothing of theirs is cached.
      views: names of other forms of the examples. Columns `NAME.COLUMN` then take the place of
        `COLUMN` in a second pass, on the same draw, and terms find its outputs, the student's and
        teachers', as `NAME.OUTPUT`; see `viewed`. Running statistics are those of the first pass.
      smooth: `{part: smoothing}`; a smoothing makes of a part's mean, a function of the parameters,
        what is minimised in its place: `mean -> ((params, key) -> scalar)`.

    Returns:
      An objective for `descend`.

    Raises:
      ValueError: for an unknown `weighting` or part, or a part that has its terms twice.
    """
    terms = dict(parts or {})
    for name, own in (("forget", forget), ("retain", retain)):
        if own and name in terms:
            raise ValueError(f"{name} must be given once, got it among parts, too")
        if own:
            terms[name] = own
    smooth = smooth or {}
    checks.not_text(views=views)
    checks.one_of(weighting=(weighting, WEIGHTINGS))
    checks.one_of(**{f"parts[{name!r}]": (name, PARTS) for name in terms})
    checks.one_of(**{f"smooth[{name!r}]": (name, tuple(terms)) for name in smooth})

    def objective(task: Task, teachers: Mapping[str, Variables]):
        def loss_fn(variables, batch, rng):
            batch = tasks.drawn(task, batch, train)
            if prepare is not None:
                rng, prepare_rng = jax.random.split(rng)
                batch = prepare(task, variables, teachers, batch, prepare_rng)
                # What teachers said of the batch as it was is not of it as it is now.
                cached = tuple(f"{name}." for name in teachers)
                batch = {k: v for k, v in batch.items() if not k.startswith(cached)}
                batch = jax.lax.stop_gradient(batch)
            seen = {
                name: teacher_outputs(task, name, frozen, batch, views)
                for name, frozen in teachers.items()
            }

            def student(params):
                own = {**variables, "params": params}
                apply = lambda given: task.apply(own, given, rng if train else None, train)
                return _with_views(apply, batch, views)

            def values(pairs, outputs, of_part):
                found = sum(c * term(task, outputs, batch, seen) for c, term in pairs)
                return jnp.where(of_part > 0, found, 0.0)

            outputs, updated = student(variables["params"])
            losses = jnp.zeros(batch["weight"].shape)
            for number, (name, pairs) in enumerate(terms.items()):
                of_part = member(batch, name)
                scale = _scale(batch, of_part)
                if name in smooth:

                    def mean(params, pairs=pairs, of_part=of_part, scale=scale):
                        own = values(pairs, student(params)[0], of_part) * batch["weight"]
                        return own.sum() * scale / jnp.maximum(batch["weight"].sum(), 1e-12)

                    key = jax.random.fold_in(rng, number)
                    value = smooth[name](mean)(variables["params"], key)
                    losses += value if weighting == "part" else value / scale
                else:
                    own = values(pairs, outputs, of_part)
                    losses += own * scale if weighting == "part" else own
            if penalty is not None:
                losses += penalty(variables["params"], teachers["original"]["params"])
            return losses, ({"objective": losses}, updated)

        return loss_fn

    return objective


def member(batch: Batch, part: str) -> Array:
    """`[B]`: 1 for the examples of that part, else 0."""
    return (batch["part"] == PARTS.index(part)).astype(jnp.float32)


def viewed(term: Term, view: str) -> Term:
    """The term of a view's outputs and columns in the place of the example's own."""

    def of_view(task, outputs, batch, teachers):
        own = {name: _renamed(seen, view) for name, seen in teachers.items()}
        return term(task, _renamed(outputs, view), viewed_batch(batch, view), own)

    return of_view


def viewed_batch(batch: Batch, view: str) -> Batch:
    """The batch with the columns of a view in the place of its own.

    Raises:
      ValueError: if it has none.
    """
    columns = _renamed(batch, view)
    if not columns:
        raise ValueError(f"views must name columns '{view}.*', a batch has {sorted(batch)}")
    return {**batch, **columns}


def teacher_outputs(
    task: Task, name: str, frozen: Variables, batch: Batch, views: Sequence[str] = ()
) -> Outputs:
    """A teacher's outputs on a batch: cached in it as `NAME.OUTPUT`, or computed when asked for."""
    apply = lambda given: task.apply(frozen, given, None, False)
    compute = lambda: jax.lax.stop_gradient(_with_views(apply, batch, views)[0])
    return _Outputs(jax.lax.stop_gradient(_renamed(batch, name)), compute)


class _Outputs(Mapping):
    """Outputs of which some are known, and all are computed when another one is asked for."""

    def __init__(self, known: Outputs, compute: Callable[[], Outputs]):
        self._known, self._compute = known, compute

    @functools.cached_property
    def _all(self) -> Outputs:
        return {**self._compute(), **self._known}

    def __getitem__(self, name: str) -> Array:
        return self._known[name] if name in self._known else self._all[name]

    def __iter__(self):
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)


def _with_views(apply, batch: Batch, views: Sequence[str]) -> tuple[Outputs, Variables]:
    """Outputs on the batch and on its views, and what the first pass updated."""
    outputs, updated = apply(batch)
    if not views:
        return outputs, updated
    of_views = {
        f"{view}.{name}": value
        for view in views
        for name, value in apply(viewed_batch(batch, view))[0].items()
    }
    return {**outputs, **of_views}, updated


def _renamed(columns: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    """Those named `PREFIX.NAME`, as `NAME`."""
    start = f"{prefix}."
    return {k.removeprefix(start): v for k, v in columns.items() if k.startswith(start)}


def task_loss(task: Task, outputs: Outputs, batch: Batch, teachers) -> Array:
    """The task's own loss: cross-entropy for classification."""
    del teachers
    return task.loss(outputs, batch)


def bounded_loss(max_loss: float | None = None) -> Term:
    """`min(loss, max_loss)`: with a negative coefficient, ascent that stops at the bound.

    Args:
      max_loss: nats, > 0; `None` is the loss of a uniform guess, the log of the number of classes,
        or of tokens.
    """
    if max_loss is not None:
        checks.positive(max_loss=max_loss)

    def term(task, outputs, batch, teachers):
        del teachers
        bound = jnp.log(_num_choices(outputs)) if max_loss is None else max_loss
        return jnp.minimum(task.loss(outputs, batch), bound)

    return term


def uniform_target(task: Task, outputs: Outputs, batch: Batch, teachers) -> Array:
    """Cross-entropy to the uniform distribution, less its minimum: KL(uniform || student).

    Of a language model the mean over the answer's tokens.
    """
    del task, teachers
    number = _num_choices(outputs)
    log_probs = jax.nn.log_softmax(outputs["logits"])
    return tasks.over_answer(-log_probs.mean(-1) - jnp.log(number), batch)


def divergence(
    teacher: str | None = "original", temperature: float = 1.0, at: str | None = None
) -> Term:
    """How far the student's predictions are from a teacher's, as the task compares them.

    `T^2 KL(teacher || student)` of softened predictions for classification, see `Task.divergence`.

    Args:
      teacher: its name; `None` is the student itself, without gradient, on a view.
      temperature: T, > 0.
      at: the view that the teacher is asked about, see `combine`; default what the student sees.
    """
    checks.positive(temperature=temperature)
    if teacher is None and at is None:
        raise ValueError("at must name a view where the student is its own teacher, got None")

    def term(task, outputs, batch, teachers):
        if task.divergence is None:
            raise ValueError("this term compares predictions: the task must have a divergence")
        said = jax.lax.stop_gradient(outputs) if teacher is None else teachers[teacher]
        said = said if at is None else _renamed(said, at)
        return task.divergence(outputs, said, batch, temperature)

    return term


def feature_distance(teacher: str = "original") -> Term:
    """Squared Euclidean distance of the features to a teacher's.

    The penultimate layer's, unless `unlearning.at_layer` says otherwise.
    """

    def term(task, outputs, batch, teachers):
        del task, batch
        own, other = (tasks.features(o) for o in (outputs, teachers[teacher]))
        return jnp.sum((own - other) ** 2, axis=-1)

    return term


def output_distance(teacher: str = "original") -> Term:
    """Half the squared Euclidean distance of the logits to a teacher's.

    Of a language model the mean over the answer's tokens.
    """

    def term(task, outputs, batch, teachers):
        del task
        own, other = tasks.logits(outputs), teachers[teacher]["logits"]
        return tasks.over_answer(jnp.sum((own - other) ** 2, axis=-1) / 2, batch)

    return term


def l1(coefficient: float) -> Penalty:
    """`coefficient * sum |theta|`."""
    return lambda params, original: coefficient * optax.tree.norm(params, ord=1)


def l2(coefficient: float) -> Penalty:
    """`coefficient * sum theta^2`."""
    return lambda params, original: coefficient * optax.tree.norm(params, squared=True)


def l2_to_original(coefficient: float, weight: PyTree | None = None) -> Penalty:
    """`coefficient * sum weight (theta - theta_original)^2`, a tree like theta, by default ones."""

    def penalty(params, original):
        apart = optax.tree.sub(params, original)
        if weight is None:
            return coefficient * optax.tree.norm(apart, squared=True)
        return coefficient * optax.tree.vdot(weight, jax.tree.map(jnp.square, apart))

    return penalty


def random_targets(rng: Array, targets: Array, num_classes: int) -> Array:
    """`[N]` labels, each uniform among the classes other than the example's own."""
    shift = jax.random.randint(rng, targets.shape, 1, num_classes)
    return (targets + shift) % num_classes


def second_best_targets(logits: Array, targets: Array) -> Array:
    """`[N]`: for each example the likeliest class other than its own."""
    is_target = jax.nn.one_hot(targets, logits.shape[-1], dtype=bool)
    return jnp.argmax(jnp.where(is_target, -jnp.inf, logits), axis=-1).astype(targets.dtype)


def _num_choices(outputs: Outputs) -> int:
    """How many classes an example has, or a token."""
    shape = getattr(outputs.get("logits"), "shape", ())
    return shape[-1] if len(shape) == 3 else tasks.num_classes(outputs)


def _scale(batch: Batch, member: Array) -> Array:
    """What turns the step's mean over the whole batch into the mean over a part of it."""
    weight = batch["weight"]
    return weight.sum() / jnp.maximum((weight * member).sum(), 1e-12)
