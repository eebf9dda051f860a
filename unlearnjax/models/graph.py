"""Graph networks on static shapes: GCN, GAT, GIN and SGC.

Called as `module(graph, train=...)` with a graph of `data.graphs`; outputs are of all nodes:
'logits' `[N, C]`, what layers return before their activation as 'layer_0', 'layer_1', ..., and, of
deep ones, the last layer's inputs as 'features' `[N, D]`. Sums over neighbours are segment sums
over edges, linear in their number; messages of masked edges go nowhere.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from unlearnjax.types import Array


class Linear(nn.Module):
    """A dense layer, also of features that are words: the sum of their rows of the kernel.

    Words that are not `known` are left out.
    """

    width: int
    use_bias: bool = True
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array | Mapping[str, Array]) -> Array:
        words = isinstance(x, Mapping)
        inputs = x["known"].shape[0] if words else x.shape[-1]
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), (inputs, self.width))
        if words:
            kernel = jnp.where(x["known"][:, None], kernel, 0)
            values, kernel = nn.dtypes.promote_dtype(x["values"], kernel, dtype=self.dtype)
            in_turns = jax.default_backend() == "cpu"
            out = sum_of_rows(x["ids"], values, kernel, in_turns=in_turns)
        else:
            x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
            out = x @ kernel
        if not self.use_bias:
            return out
        bias = self.param("bias", nn.initializers.zeros_init(), (self.width,))
        return out + bias.astype(out.dtype)


def sum_of_rows(ids: Array, values: Array, kernel: Array, *, in_turns: bool) -> Array:
    """`[N, D]`: `sum_k values[n, k] kernel[ids[n, k]]`, in the type of `kernel`.

    Args:
      ids, values: `[N, K]`.
      kernel: `[V, D]`.
      in_turns: one k after another, without an array of all rows. On a CPU, whose cache it would
        not fit, that takes half of the time, and a third where many models are mapped over; an
        accelerator would wait for K steps.
    """
    if not in_turns:
        return jnp.einsum("nk,nkd->nd", values, kernel[ids])

    def add(total, one):
        ids, values = one
        return total + values[:, None] * kernel[ids], None

    wide = jnp.promote_types(kernel.dtype, jnp.float32)
    start = jnp.zeros((ids.shape[0], kernel.shape[1]), wide)
    return jax.lax.scan(add, start, (ids.T, values.T))[0].astype(kernel.dtype)


def neighbour_sum(graph: Mapping[str, Any], messages: Array) -> Array:
    """`[N, ...]`: the sum of what arrives at every node along edges, of messages `[M, ...]`."""
    number = graph["node_mask"].shape[0]
    receivers = jnp.where(graph["edge_mask"], graph["receivers"], number)  # out of bounds: dropped
    return jax.ops.segment_sum(messages, receivers, num_segments=number)


def normalised_sum(graph: Mapping[str, Any], x: Array) -> Array:
    """`D^-1/2 (A + I) D^-1/2 x`, with the degrees of the edges that there are."""
    degree = 1 + neighbour_sum(graph, jnp.ones(graph["senders"].shape, jnp.float32))
    norm = jax.lax.rsqrt(degree)[:, None].astype(x.dtype)
    scaled = norm * x
    return norm * (neighbour_sum(graph, scaled[graph["senders"]]) + scaled)


class GCNLayer(nn.Module):
    """`D^-1/2 (A + I) D^-1/2 H W + b`."""

    width: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x, graph, train=False):
        del train
        out = normalised_sum(graph, Linear(self.width, use_bias=False, dtype=self.dtype)(x))
        bias = self.param("bias", nn.initializers.zeros_init(), (self.width,))
        return out + bias.astype(out.dtype)


class GATLayer(nn.Module):
    """Neighbours and the node itself, weighted by a softmax of `LeakyReLU(a_s.W h_j + a_t.W h_i)`.

    `width` is of one head; the heads' outputs are joined.
    """

    width: int
    num_heads: int = 1
    dropout: float = 0.0
    slope: float = 0.2
    dtype: Any = None

    @nn.compact
    def __call__(self, x, graph, train=False):
        heads, number = self.num_heads, graph["node_mask"].shape[0]
        own = Linear(heads * self.width, use_bias=False, dtype=self.dtype)(x)
        own = own.reshape(number, heads, self.width)
        initial = nn.initializers.glorot_uniform()
        vector = lambda name: self.param(name, initial, own.shape[1:]).astype(own.dtype)
        from_sender, to_receiver = ((own * vector(n)).sum(-1) for n in ("source", "target"))
        senders, receivers, there = (graph[name] for name in ("senders", "receivers", "edge_mask"))
        leaky = lambda e: nn.leaky_relu(e, self.slope)
        along = leaky(from_sender[senders] + to_receiver[receivers])
        along = jnp.where(there[:, None], along, -jnp.inf)
        itself = leaky(from_sender + to_receiver)
        arriving = jax.ops.segment_max(along, receivers, num_segments=number)
        largest = jax.lax.stop_gradient(jnp.maximum(arriving, itself))
        along, itself = jnp.exp(along - largest[receivers]), jnp.exp(itself - largest)
        total = neighbour_sum(graph, along) + itself
        drop = nn.Dropout(self.dropout, deterministic=not train)
        along, itself = drop(along / total[receivers]), drop(itself / total)
        messages = along[..., None] * own[senders]
        out = neighbour_sum(graph, messages) + itself[..., None] * own
        bias = self.param("bias", nn.initializers.zeros_init(), (heads * self.width,))
        return out.reshape(number, -1) + bias.astype(out.dtype)


class GINLayer(nn.Module):
    """`MLP((1 + eps) h_i + sum_j h_j)`, a perceptron of two layers, after its first matrix.

    The sum is taken of what the first matrix makes of features, which is the same and cheaper.
    """

    width: int
    eps: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, x, graph, train=False):
        del train
        own = Linear(self.width, use_bias=False, dtype=self.dtype)(x)
        joined = (1 + self.eps) * own + neighbour_sum(graph, own[graph["senders"]])
        bias = self.param("bias", nn.initializers.zeros_init(), (self.width,))
        return Linear(self.width, dtype=self.dtype)(nn.relu(joined + bias.astype(own.dtype)))


def _stacked(layers: Sequence[nn.Module], activation, dropout: float, graph, train: bool):
    """Layers one after another, as outputs of a model."""
    h, outputs = graph["nodes"], {}
    for number, layer in enumerate(layers):
        if number:
            h = outputs["features"] = activation(h)
        drop = nn.Dropout(dropout, deterministic=not train)
        dropped = {**h, "values": drop(h["values"])} if isinstance(h, Mapping) else drop(h)
        h = outputs[f"layer_{number}"] = layer(dropped, graph, train)
    return {**outputs, "logits": h}


class GCN(nn.Module):
    """Graph convolutions with ReLU between them (Kipf and Welling, ICLR 2017).

    Attributes:
      num_classes: width of the outputs.
      hidden: widths of the layers before.
      dropout: of every layer's inputs.
      out: width of the outputs if not `num_classes`, as where they are embeddings.
    """

    num_classes: int
    hidden: Sequence[int] = (16,)
    dropout: float = 0.5
    out: int | None = None
    dtype: Any = None

    @nn.compact
    def __call__(self, graph, train=False):
        widths = (*self.hidden, self.out or self.num_classes)
        layers = [
            GCNLayer(width, dtype=self.dtype, name=f"layer_{i}") for i, width in enumerate(widths)
        ]
        return _stacked(layers, nn.relu, self.dropout, graph, train)


class GAT(nn.Module):
    """Graph attention with ELU between layers (Velickovic et al., ICLR 2018).

    Attributes:
      num_classes, out: see `GCN`.
      hidden: widths of a head in the layers before.
      num_heads: of these layers; the last has one.
      dropout: of every layer's inputs, and of its attention.
    """

    num_classes: int
    hidden: Sequence[int] = (8,)
    num_heads: int = 8
    dropout: float = 0.6
    out: int | None = None
    dtype: Any = None

    @nn.compact
    def __call__(self, graph, train=False):
        widths = [(width, self.num_heads) for width in self.hidden]
        layers = [
            GATLayer(width, heads, self.dropout, dtype=self.dtype, name=f"layer_{i}")
            for i, (width, heads) in enumerate([*widths, (self.out or self.num_classes, 1)])
        ]
        return _stacked(layers, nn.elu, self.dropout, graph, train)


class GIN(nn.Module):
    """Graph isomorphism layers with ReLU between them (Xu et al., ICLR 2019).

    Attributes:
      num_classes, hidden, dropout, out: see `GCN`.
      eps: how much more a node counts than a neighbour; fixed.
    """

    num_classes: int
    hidden: Sequence[int] = (16,)
    dropout: float = 0.5
    eps: float = 0.0
    out: int | None = None
    dtype: Any = None

    @nn.compact
    def __call__(self, graph, train=False):
        widths = (*self.hidden, self.out or self.num_classes)
        layers = [
            GINLayer(width, self.eps, dtype=self.dtype, name=f"layer_{i}")
            for i, width in enumerate(widths)
        ]
        return _stacked(layers, nn.relu, self.dropout, graph, train)


class SGC(nn.Module):
    """`(D^-1/2 (A + I) D^-1/2)^K X W + b`, linear in its parameters (Wu et al., ICML 2019).

    Attributes:
      num_classes, out: see `GCN`.
      num_hops: K.
    """

    num_classes: int
    num_hops: int = 2
    out: int | None = None
    dtype: Any = None

    @nn.compact
    def __call__(self, graph, train=False):
        width = self.out or self.num_classes
        h = Linear(width, use_bias=False, dtype=self.dtype, name="layer_0")(graph["nodes"])
        for _ in range(self.num_hops):
            h = normalised_sum(graph, h)
        h = h + self.param("bias", nn.initializers.zeros_init(), (width,)).astype(h.dtype)
        return {"logits": h, "layer_0": h}
