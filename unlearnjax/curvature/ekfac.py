"""The Fisher matrix, block by block, in Kronecker-factored eigenbases with exact eigenvalues.

George et al., "Fast Approximate Natural Gradient Descent in a Kronecker-factored Eigenbasis",
NeurIPS 2018; for influence functions Grosse et al., 2023 (arXiv 2308.03296).
"""

from collections.abc import Collection
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from unlearnjax import checks, trees
from unlearnjax.curvature.fisher import fisher_diagonal, mean_over_batches, sample_targets
from unlearnjax.curvature.layers import captured
from unlearnjax.models import layers as model_layers
from unlearnjax.types import Array, Data, PyTree, Task, Variables

# Of the layers whose gradients are known, those that get a block.
KINDS = (nn.Dense, model_layers.Conv)


class Block(NamedTuple):
    """A layer's block: `(Q_in x Q_out) diag(eigenvalues) (Q_in x Q_out)'`.

    Attributes:
      input_basis: `[in, in]`, the bias's constant input last.
      output_basis: `[out, out]`.
      eigenvalues: `[in, out]`.
    """

    input_basis: Array
    output_basis: Array
    eigenvalues: Array


class EKFAC(NamedTuple):
    """A factored Fisher matrix.

    Attributes:
      blocks: `{layer: Block}` of the dense and convolutional layers that `curvature.layers` is sure
        of and whose parameters are a group's `kernel` and `bias`, by the group's dotted name.
      diagonal: Fisher diagonal, leaves like the parameters; used for all other layers.
    """

    blocks: dict[str, Block]
    diagonal: PyTree


def ekfac(
    task: Task, variables: Variables, data: Data, rng: Array, *, batch_size: int = 256
) -> EKFAC:
    """The Fisher matrix of the model's own predictions, factored.

    For a layer with inputs a and output cotangents d the bases are those of `mean a a'` and
    `mean d d'`; eigenvalues are the mean squares of the per-example gradients in them, the best
    diagonal there is. Labels are drawn from the model, so that at a minimum the matrix is the
    Gauss-Newton approximation of the Hessian.

    Args:
      task: of classification.
      variables: the model's; layers are seen of Linen models.
      data: `[N, ...]`.
      rng: draws the labels.
      batch_size: examples at once; the result does not depend on it.

    Returns:
      The factors. Cost: two passes and an eigendecomposition per layer and side; memory: twice the
      parameters and the squares of the layers' widths.
    """

    names = trees.names(variables["params"])

    def layers(batch):
        batch = {**batch, "targets": sample_targets(rng, task, variables, batch)}
        found = {}
        for layer, inputs, cotangents in captured(task, variables, batch):
            paths = {part: trees.path_name(path) for part, path in layer.paths.items()}
            if type(layer.module) in KINDS and paths == _parts(layer.name, names):
                rows, outputs = (x.astype(jnp.float32) for x in layer.rows(inputs, cotangents))
                if "bias" in layer.paths:
                    rows = jnp.pad(rows, ((0, 0), (0, 0), (0, 1)), constant_values=1)
                found[layer.name] = (rows, outputs)
        return found

    def covariances(batch):
        weight = batch["weight"]
        return {
            name: tuple(jnp.einsum("nti,ntj,n->ij", x, x, weight) for x in pair)
            for name, pair in layers(batch).items()
        }

    one = {k: v[:1] for k, v in data.items()} | {"weight": jnp.ones(1)}
    like = jax.eval_shape(covariances, one)
    factors = mean_over_batches(covariances, like, data, batch_size)
    bases = {
        name: tuple(jnp.linalg.eigh(matrix)[1] for matrix in pair) for name, pair in factors.items()
    }

    def squares(batch):
        result = {}
        for name, (inputs, outputs) in layers(batch).items():
            x, d = inputs @ bases[name][0], outputs @ bases[name][1]
            if x.shape[1] == 1:  # one position: the square of a product is a product of squares
                result[name] = (x[:, 0] ** 2 * batch["weight"][:, None]).T @ d[:, 0] ** 2
            else:
                gradients = jnp.einsum("nti,nto->nio", x, d)
                result[name] = jnp.einsum("nio,n->io", gradients**2, batch["weight"])
        return result

    shapes = jax.eval_shape(squares, one)
    eigenvalues = mean_over_batches(squares, shapes, data, batch_size)
    blocks = {name: Block(*bases[name], eigenvalues[name]) for name in bases}
    diagonal = fisher_diagonal(
        task, variables, data, batch_size=batch_size, labels="model", rng=rng
    )
    return EKFAC(blocks, diagonal)


def ekfac_solve(factors: EKFAC, vector: PyTree, *, damping: float) -> PyTree:
    """`(F + damping I)^-1 v`.

    Args:
      factors: of `ekfac`.
      vector: a tree like the parameters; the result has its types.
      damping: > 0.
    """
    checks.positive(damping=damping)
    by_name = dict(zip(trees.names(vector), jax.tree.leaves(vector), strict=True))
    by_diagonal = jax.tree.map(lambda x, d: x / (d + damping), vector, factors.diagonal)
    solved = dict(zip(by_name, jax.tree.leaves(by_diagonal), strict=True))
    for name, block in factors.blocks.items():
        parts = _parts(name, by_name)
        kernel, bias = by_name[parts["kernel"]], by_name.get(parts.get("bias"))
        matrix = kernel.reshape(-1, kernel.shape[-1])
        if bias is not None:
            matrix = jnp.concatenate([matrix, bias[None]])
        inside = block.input_basis.T @ matrix @ block.output_basis
        inside /= block.eigenvalues + damping
        matrix = block.input_basis @ inside @ block.output_basis.T
        if bias is not None:
            matrix, solved[parts["bias"]] = matrix[:-1], matrix[-1]
        solved[parts["kernel"]] = matrix.reshape(kernel.shape)
    solution = jax.tree.structure(vector).unflatten(list(solved.values()))
    return jax.tree.map(lambda s, v: s.astype(v.dtype), solution, vector)


def _parts(layer: str, names: Collection[str]) -> dict[str, str]:
    """`{'kernel': name, 'bias': name}` of what there is of a layer, among all parameters' names."""
    full = {part: f"{layer}.{part}" if layer else part for part in ("kernel", "bias")}
    return {part: name for part, name in full.items() if name in names}
