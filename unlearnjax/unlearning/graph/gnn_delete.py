"""GNNDelete: a matrix behind every layer of a frozen network, for nodes near what is deleted."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import optax

from unlearnjax import checks, tasks, training
from unlearnjax.data import graphs
from unlearnjax.tasks.graph import PROPOSALS, free_pairs
from unlearnjax.tasks.trained import held, without
from unlearnjax.types import Array, Batch, Request, Task, Unlearner, Variables
from unlearnjax.unlearning.descend import init_nothing
from unlearnjax.unlearning.graph.d2dgn import layer_names
from unlearnjax.unlearning.graph.influence import edited_graphs

BASE, OPERATED = "base", "operated"


def gnn_delete(
    tx: optax.GradientTransformation,
    *,
    layers: Sequence[str] | None = None,
    alpha: float = 0.5,
    num_steps: int = 500,
) -> Unlearner:
    """Learns a matrix W_l for what layer l returns, of nodes within l + 1 edges of a deletion.

    The network is frozen. Each layer minimises by itself `alpha mean |[h'_u, h'_v] - [h_p, h_q]|^2
    + (1 - alpha) mean |h'_w - h_w|^2`: (u, v) are the deleted edges, (p, q) as many pairs of nodes
    that stay and never had an edge, drawn once, w the nodes that W_l touches and that are no end of
    a deleted edge; h are the frozen network's outputs before the activation, h' those behind the
    matrices, all on the edited graph. Where features are deleted, but no edge, only the second part
    is left.

    In the published code the first matrix also gets the gradient of the second one's loss, a step
    later, as it is not cleared; messages pass over the neighbourhood with the deleted edges in it;
    and the state is chosen by the sum of the AUCs of test and of deleted edges. Here gradients stop
    between layers, the graph is the edited one, and the last state is returned. Its scripts for
    nodes and features build the network without the masks of its operators, which then touch
    nothing: what they report is the original model, on the whole graph. Here nodes and features
    are deleted as edges are.

    One matrix serves all nodes that a layer's loss sees, the ends of deleted edges and those that
    are to stay as they are: where a request touches most of the graph, forgetting is paid for
    everywhere, and `alpha` is its price.

    Args:
      tx: optax transformation; the paper's is Adam 1e-3. Matrices start near 0, and Adam moves an
        entry by its rate in a step: so few steps that their product with the rate is below 1 stop
        on the way.
      layers: names of the layers, in order; `None`: all outputs 'layer_0', 'layer_1', ...
      alpha: share of the first part, in [0, 1].
      num_steps: steps, each over the whole graph; the paper's are up to 3,000.

    Returns:
      An unlearner that needs nothing but the two graphs and the shape of forget data, and `serve`s
      the task with matrices, see `operated`. Each costs `D^2` numbers, and a product per node and
      prediction.

    Raises:
      ValueError: for a value out of range; at the request where it edits no graph, or for layers
        that the model has not.

    References:
      Cheng et al., "GNNDelete: A General Strategy for Unlearning in Graph Neural Networks", ICLR
      2023.
    """
    checks.share(alpha=alpha)
    checks.whole(num_steps=num_steps)
    checks.at_least(1, num_steps=num_steps)
    if layers is not None:
        checks.not_text(layers=layers)

    def update(rng, task, variables, memory, request: Request):
        before, after = edited_graphs(variables, request)
        number = graphs.num_nodes(before)
        everyone = _everyone(number, request.forget["inputs"].ndim == 2)
        plain = node_outputs(task, variables, everyone, layers)
        names = tuple(plain)
        start = as_operated(variables, before, plain)
        gone = before["edge_mask"] & ~after["edge_mask"]
        edges = jnp.stack([before["senders"], before["receivers"]], axis=1)
        others = strangers(rng, before, after)
        ends = (
            jnp.zeros(number, bool)
            .at[jnp.where(gone[:, None], edges, number)]
            .set(True, mode="drop")
        )
        student = operated(task, apart=True)

        def loss_fn(model, batch, key):
            del key
            found, total = node_outputs(student, model, everyone, names), 0.0
            for name in names:
                h, target = found[name], jax.lax.stop_gradient(plain[name])
                apart = ((h[edges] - target[others]) ** 2).mean((1, 2))
                moved = ((h - target) ** 2).mean(1)
                near = model[OPERATED][name] & ~ends
                total += alpha * _mean(apart, gone) + (1 - alpha) * _mean(moved, near)
            return total[None], ({"loss": total[None]}, model)

        step, batch = training.make_step(loss_fn, tx), {"weight": jnp.ones(1)}
        advance = lambda state, _: (step(state, batch, rng)[0], None)
        state = training.init_state(start, tx)
        state, _ = jax.lax.scan(advance, state, length=num_steps)
        return training.deploy(state), memory

    return Unlearner(
        init_nothing,
        update,
        frozenset({"forget", "inputs"}),
        serve=operated,
    )


def strangers(rng: Array, before: graphs.Graph, after: graphs.Graph) -> Array:
    """`[M, 2]`: for every place of an edge two nodes that stay, and never had one."""
    shape = (len(before["senders"]), PROPOSALS, 2)
    proposals = jax.random.randint(rng, shape, 0, graphs.num_nodes(before))
    return free_pairs({**before, "node_mask": after["node_mask"]}, proposals)


def as_operated(
    variables: Variables, before: graphs.Graph, outputs: Mapping[str, Array]
) -> dict[str, object]:
    """The plain model as one of `operated`: matrices of 1/1000, and the nodes they touch.

    Args:
      variables: with the edited graph.
      before: the graph as it was.
      outputs: `{layer: [N, D]}` in order.
    """
    changed = graphs.changed(before, variables["graph"])
    hops = {name: graphs.k_hop(before, changed, i + 1) for i, name in enumerate(outputs)}
    matrices = {
        name: jnp.full((h.shape[1], h.shape[1]), 1e-3, h.dtype) for name, h in outputs.items()
    }
    kept = without(variables, "params")
    return {**kept, "params": matrices, BASE: variables["params"], OPERATED: hops}


def operated(task: Task, apart: bool = False) -> Task:
    """The task in which a matrix multiplies what a layer returns for some nodes.

    Variables: 'params' `{layer: [D, D]}`, 'operated' `{layer: [N] bool}`, 'base', the parameters of
    the frozen network, and what that carries.

    Args:
      task: of a graph, with layers of those names that return `[N, D]`.
      apart: whether gradients stop before every matrix, so that each has that of its own layer.
    """

    def apply(variables: Variables, batch: Batch, rng: Array | None, train: bool):
        def behind(name):
            matrix, mask = variables["params"][name], held(variables, OPERATED, "gnn_delete")[name]

            def edit(h, batch):
                del batch
                h = jax.lax.stop_gradient(h) if apart else h
                return jnp.where(mask[:, None], h @ matrix, h)

            return edit

        plain = {k: v for k, v in variables.items() if k not in (BASE, OPERATED)}
        plain["params"] = variables[BASE]
        edited = tasks.edit(task, {name: behind(name) for name in variables["params"]})
        outputs, updated = edited.apply(plain, batch, rng, train)
        own = {name: variables[name] for name in ("params", BASE, OPERATED)}
        return outputs, {**updated, **own}

    return task._replace(apply=apply)


def node_outputs(
    task: Task, variables: Variables, everyone: Batch, layers: Sequence[str] | None = None
) -> dict[str, Array]:
    """`{layer: [N, D]}` of all nodes."""
    outputs, _ = task.apply(variables, everyone, None, False)
    layers = layer_names(outputs) if layers is None else layers
    lacking = [name for name in layers if name not in outputs]
    if lacking:
        raise ValueError(f"layers must be among the outputs {sorted(outputs)}, got {lacking}")
    of_pairs = everyone["inputs"].ndim == 2
    return {name: outputs[name][:, 0] if of_pairs else outputs[name] for name in layers}


def _everyone(number: int, of_pairs: bool) -> Batch:
    nodes = jnp.arange(number)
    return {"inputs": jnp.stack([nodes, nodes], axis=1) if of_pairs else nodes}


def _mean(values: Array, where: Array) -> Array:
    """Over the chosen ones, 0 without any."""
    return jnp.sum(values * where) / jnp.maximum(where.sum(), 1)
