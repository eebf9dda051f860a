"""Fisher forgetting: noise by what the retain set's Fisher information says."""

import jax
import jax.numpy as jnp

from unlearnjax import checks, curvature, tasks, training
from unlearnjax import data as data_lib
from unlearnjax.types import Data, PyTree, Request, Task, Unlearner, Variables
from unlearnjax.unlearning.descend import init_nothing
from unlearnjax.unlearning.finetune import last_layers


def fisher_forgetting(
    *,
    alpha: float = 1e-6,
    max_inverse: float = 1e3,
    max_inverse_last: float = 1e2,
    batch_size: int = 32,
) -> Unlearner:
    """Fisher forgetting: noise where the retain set does not mind it.

    `theta + sqrt(v) eps` with eps standard normal. The variance v is
    `alpha min(1 / (F + 1e-8), max_inverse)`, averaged over the inputs of a unit (the axis before
    the last of a kernel `[..., in, out]`), and ten times that in the last layer and in every
    one-dimensional parameter. F is the mean over batches of the retain set, in its order, of
    `sum_y p(y) (d mean loss with label y / d theta)^2`, with p(y) the label's mean probability in
    the batch, in evaluation mode.

    A class that no example of the retain set has is forgotten as a whole: what makes its logit in
    the last layer gets the mean 0 and the variance 1e-4, before the factor ten.

    As the published code (`fisher_new` of OPTML-Group/Unlearn-Sparse, of Golatkar's), but for what
    it takes for the last layer: every parameter as long as there are classes. Ours is the layer
    that the model applies last.

    Args:
      alpha: noise level, > 0; published searches span 1e-9 to 1e-6.
      max_inverse, max_inverse_last: bound on one over F, of the last layer's parameters separately.
      batch_size: examples per batch. Part of the definition: F falls as about one over it.

    Returns:
      An unlearner that needs retain data and labels. Cost: a forward pass over the retain set and
      as many backward passes as there are classes C, at once: memory of C times the parameters.

    Raises:
      ValueError: for a value out of range, at the request for targets that are not class ids.

    References:
      Golatkar et al., "Eternal Sunshine of the Spotless Net", CVPR 2020, section 4.
    """
    checks.positive(alpha=alpha, max_inverse=max_inverse, max_inverse_last=max_inverse_last)
    checks.at_least(1, batch_size=batch_size)

    def update(rng, task, variables, memory, request: Request):
        retain = request.retain
        if not jnp.issubdtype(retain["targets"].dtype, jnp.integer):
            raise ValueError(f"targets must be class ids, got {retain['targets'].dtype}")
        num_classes = tasks.num_classes(training.output_shapes(task, variables, retain))
        fisher = _expected_fisher(task, variables, retain, num_classes, batch_size)
        gone = jnp.bincount(retain["targets"], data_lib.weights(retain), length=num_classes) == 0
        last = last_layers(task, variables, retain, 1)
        leaves, treedef = jax.tree.flatten(variables["params"])
        keys = treedef.unflatten(jax.random.split(rng, len(leaves)))

        def noisy(theta, f, is_last, key):
            if not jnp.issubdtype(theta.dtype, jnp.floating):
                return theta
            mean, bound = theta, max_inverse_last if is_last else max_inverse
            variance = alpha * jnp.minimum(1 / (f + 1e-8), bound)
            if theta.ndim > 1:
                variance = jnp.broadcast_to(variance.mean(-2, keepdims=True), theta.shape)
            if is_last and theta.shape[-1:] == (num_classes,):
                mean = jnp.where(gone, 0.0, mean)
                variance = jnp.where(gone, 1e-4, variance)
            if is_last or theta.ndim == 1:
                variance *= 10
            return (mean + jnp.sqrt(variance) * jax.random.normal(key, f.shape)).astype(theta.dtype)

        params = jax.tree.map(noisy, variables["params"], fisher, last, keys)
        return {**variables, "params": params}, memory

    return Unlearner(init_nothing, update, frozenset({"retain", "inputs", "labels"}))


def _expected_fisher(
    task: Task, variables: Variables, data: Data, num_classes: int, batch_size: int
) -> PyTree:
    """`mean_b sum_y p_b(y) (d mean_{n in b} -log p(y | x_n) / d theta)^2` over batches b."""

    def of_label(label):
        def loss(outputs, batch):
            log_probs = jax.nn.log_softmax(outputs["logits"])[:, label]
            share = jnp.average(jnp.exp(log_probs), weights=batch["weight"])
            return -jax.lax.stop_gradient(jnp.sqrt(share)) * log_probs  # to be squared

        labelled = task._replace(loss=loss)
        size = min(batch_size, data_lib.num_examples(data))
        return curvature.batch_gradient_squared(labelled, variables, data, batch_size=size)

    return jax.tree.map(lambda f: f.sum(0), jax.vmap(of_label)(jnp.arange(num_classes)))
