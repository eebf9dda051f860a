"""Influence of what is deleted from a graph: on its own loss, and on those around it."""

import jax
import jax.numpy as jnp

from unlearnjax import checks, curvature, trees
from unlearnjax import data as data_lib
from unlearnjax.data import graphs
from unlearnjax.types import Array, Data, PyTree, Request, Task, Unlearner, Variables
from unlearnjax.unlearning import ids, teachers
from unlearnjax.unlearning.descend import init_nothing

HESSIANS = ("edited", "original")


def graph_influence(
    *,
    hops: int | None = None,
    hessian: str = "edited",
    alpha: float = 1.0,
    noise: float = 0.0,
    method: str = "cg",
    damping: float = 0.01,
    num_steps: int = 50,
    scale: float = 10.0,
    batch_size: int = 4096,
) -> Unlearner:
    """GIF: one step of second order for nodes, edges or features; with `noise`, CEU's for edges.

    `theta + alpha H^-1 (sum_{V + S} grad l_i(G) - sum_S grad l_i(G'))`: V are the examples that are
    deleted, S those that stay and lie within `hops` of what changed between the graphs, G' being
    the edited one. What lies farther away than the model sees has the same gradient on both, and
    cancels; hence with as many hops as layers, or all examples, the difference is exact.

    The published code is `hops=2`, `hessian='original'`, `method='lissa'`, `num_steps=100`,
    `damping=0` and, the Hessian being of the mean loss here and of the sum there, `scale` 500 by
    the number of training examples; for nodes it counts 3 from those that are deleted, here it is 2
    from the neighbours that have lost an edge. It draws deleted nodes as
    positions among the training nodes and takes them for ids, and S has test nodes with their
    labels; here S are training examples. The default solves the system to the end, with the
    Hessian after the deletion: exact where the loss is quadratic, if `damping` is the ridge of
    the training.

    Args:
      hops: how far S reaches from what changed, `None` is everywhere. Pairs that are drawn always
        belong to it.
      hessian: 'edited': of the retain set on G'; 'original': of all on G.
      alpha: strength; 1 is the theory's.
      noise: standard deviation of Gaussian noise on the parameters, by which CEU's step on a convex
        loss is certified. The certificate's size is the caller's; none is computed here.
      method, damping, num_steps, scale, batch_size: of the inverse, see
        `curvature.inverse_hessian_vector_product`.

    Returns:
      An unlearner that needs forget and retain data and labels. Cost: three passes and those of the
      inverse.

    Raises:
      ValueError: for a value out of range; at the request where it edits no graph.

    References:
      Wu et al., "GIF: A General Graph Unlearning Strategy via Influence Function", WWW 2023; Wu et
      al., "Certified Edge Unlearning for Graph Neural Networks", KDD 2023.
    """
    if hops is not None:
        checks.whole(hops=hops)
        checks.at_least(0, hops=hops)
    checks.one_of(hessian=(hessian, HESSIANS), method=(method, curvature.INVERSE_METHODS))
    checks.at_least(0, alpha=alpha, noise=noise, damping=damping)

    def update(rng, task, variables, memory, request: Request):
        of_inverse, of_noise = jax.random.split(rng)
        before, after = edited_graphs(variables, request)
        params = trees.widened(variables["params"])  # inverses sum in it
        at = {**variables, "params": params}
        on_original = {**at, "graph": before}
        deleted, near = deleted_and_near(request, before, after, hops)
        inverse = {
            "edited": (at, request.retain),
            "original": (on_original, _joined(request.retain, deleted)),
        }[hessian]
        total = jnp.maximum(data_lib.weights(inverse[1]).sum(), 1e-12)
        sums = [
            _gradient_sum(task, model, part, batch_size)
            for model, part in ((on_original, deleted), (on_original, near), (at, near))
        ]
        vector = jax.tree.map(lambda gone, old, new: (gone + old - new) / total, *sums)
        step = curvature.inverse_hessian_vector_product(
            task,
            *inverse,
            vector,
            method=method,
            damping=damping,
            num_steps=num_steps,
            scale=scale,
            rng=of_inverse,
            batch_size=batch_size,
        )
        leaves, treedef = jax.tree.flatten(params)
        keys = treedef.unflatten(jax.random.split(of_noise, len(leaves)))
        moved = jax.tree.map(
            lambda key, p, s, like: (
                p + alpha * s + noise * jax.random.normal(key, p.shape, p.dtype)
            ).astype(like.dtype),
            keys,
            params,
            step,
            variables["params"],
        )
        return {**variables, "params": moved}, memory

    return Unlearner(init_nothing, update, frozenset({"forget", "retain", "inputs", "labels"}))


def edited_graphs(variables: Variables, request: Request) -> tuple[graphs.Graph, graphs.Graph]:
    """The graph before and after a request.

    Raises:
      ValueError: where either model has none.
    """
    models = teachers.original(variables, request), variables
    if not all("graph" in model for model in models):
        raise ValueError("the request must edit a graph: the model carries no collection 'graph'")
    return tuple(model["graph"] for model in models)


def deleted_and_near(
    request: Request, before: graphs.Graph, after: graphs.Graph, hops: int | None
) -> tuple[Data, Data]:
    """V and S of `graph_influence`: forget and retain data, weight 0 for others."""
    forget, retain = request.forget, request.retain
    stay = jnp.isin(ids.of(forget, "the forget set"), ids.of(retain, "the retain set"))
    deleted = {**forget, "weight": data_lib.weights(forget) * ~stay}
    if hops is None:
        return deleted, {**retain, "weight": data_lib.weights(retain)}
    reached = graphs.k_hop(before, graphs.changed(before, after), hops)
    inputs = jnp.asarray(retain["inputs"])
    own = (reached[inputs] | (inputs < 0)).reshape(len(inputs), -1).any(1)
    return deleted, {**retain, "weight": data_lib.weights(retain) * own}


def _joined(one: Data, other: Data) -> Data:
    weighted = {**one, "weight": data_lib.weights(one)}
    return {name: jnp.concatenate([weighted[name], other[name]]) for name in weighted}


def _gradient_sum(task: Task, variables: Variables, data: Data, batch_size: int) -> PyTree:
    """Of the weighted losses, 0 where there are none."""
    total: Array = data_lib.weights(data).sum()
    mean = curvature.mean_gradient(task, variables, data, batch_size=batch_size)
    return jax.tree.map(lambda g: jnp.where(total > 0, total * g, 0.0), mean)
