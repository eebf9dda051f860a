"""Label-agnostic forgetting: unlearn in feature space, guided by two density models, no labels.

Shen et al., "Label-Agnostic Forgetting: A Supervision-Free Unlearning in Deep Models", ICLR 2024
(arXiv 2404.00506).
"""

import jax
import jax.numpy as jnp
import optax

from unlearnjax import checks, models, tasks, training
from unlearnjax.types import Array, Request, Task, Unlearner, Variables
from unlearnjax.unlearning import objectives
from unlearnjax.unlearning.descend import Transform, descend, original, original_model


def laf(
    tx: Transform,
    *,
    num_epochs: int = 3,
    batch_size: int = 64,
    forget_weight: float = 1.0,
    align_weight: float = 1.0,
    temperature: float = 0.2,
    max_error: float = 1.0,
    latent: int = 8,
    vae_epochs: int = 20,
    vae_learning_rate: float = 3e-3,
) -> Unlearner:
    """LAF: retain features stay typical of the training data, forget features leave their own.

    Two variational autoencoders are fitted to the original's penultimate features: `h` to those of
    all training data, `h_f` to those of the forget set. Then the model minimises, with `e` the
    reconstruction error relative to the mean square of the features,

      `mean over retain of e_h + align_weight * contrast  -  forget_weight * mean over forget of
      min(e_{h_f}, max_error)`

    where `contrast` (`objectives.contrast`) ties each retain feature to the original's. The bound
    keeps the maximised term finite. Only features enter, so the classifier gets no gradient. In
    evaluation mode. LAF+R, with a supervised repair, is `chain(laf(...), finetune(tx,
    num_epochs=1))`. The paper does not fix the weights of the terms: sweep them.

    Args:
      tx: optax transformation; Adam 1e-3 to 1e-4 in the paper.
      num_epochs: passes over the retain set, each step with a batch of the forget set.
      batch_size: examples of each set per step.
      forget_weight, align_weight: coefficients, >= 0.
      temperature: of the contrast, > 0.
      max_error: where a forget example stops pushing, > 0; 1 is the error of predicting zero.
      latent: dimensions of the autoencoders' latents.
      vae_epochs, vae_learning_rate: of their training, by Adam.

    Returns:
      An unlearner that needs forget and retain data, no labels; the task's outputs must have
      'features'. Cost: the passes, one forward pass over both sets, and the training of two small
      autoencoders.

    Raises:
      ValueError: for a value out of range.
    """
    checks.at_least(0, forget_weight=forget_weight, align_weight=align_weight)
    checks.at_least(1, latent=latent, vae_epochs=vae_epochs)
    checks.positive(max_error=max_error, vae_learning_rate=vae_learning_rate)
    density = tasks.autoencoding(tasks.from_linen(models.VAE(latent), rng_names=("sample",)))

    def loop(retain_error: objectives.Term, forget_error: objectives.Term) -> Unlearner:
        objective = objectives.combine(
            retain=[
                (1.0, retain_error),
                (align_weight, objectives.contrast("original", temperature)),
            ],
            forget=[(-forget_weight, forget_error)],
        )
        return descend(
            objective,
            tx,
            over="paired",
            num_epochs=num_epochs,
            batch_size=batch_size,
            teachers={"original": original_model},
            labels=False,
        )

    def fit(rng: Array, features: Array) -> Variables:
        n = features.shape[0]
        state, _ = training.train(
            density,
            optax.adam(vae_learning_rate),
            {"inputs": features},
            jnp.arange(n),
            rng,
            num_epochs=vae_epochs,
            batch_size=min(batch_size, n),
        )
        return state.variables

    def update(rng, task, variables, memory, request: Request):
        all_rng, forget_rng, rng = jax.random.split(rng, 3)
        frozen = original(variables, request)
        forget, retain = (
            tasks.features(training.outputs(task, frozen, part))
            for part in (request.forget, request.retain)
        )
        everything = jnp.concatenate([forget, retain])
        scale = jnp.maximum(jnp.sqrt(jnp.mean(everything**2)), 1e-12)
        typical, forgotten = fit(all_rng, everything / scale), fit(forget_rng, forget / scale)
        inner = loop(
            reconstruction_error(density, typical, scale),
            reconstruction_error(density, forgotten, scale, max_error),
        )
        return inner.update(rng, task, variables, memory, request)

    return loop(objectives.task_loss, objectives.task_loss)._replace(update=update)


def reconstruction_error(
    density: Task, variables: Variables, scale: Array, bound: float | None = None
) -> objectives.Term:
    """Mean squared error of features / `scale` under a frozen autoencoder, up to `bound`."""

    def term(task, outputs, batch, teachers):
        del task, batch, teachers
        features = {"inputs": outputs["features"] / scale}
        rebuilt, _ = density.apply(variables, features, None, False)
        error = density.metrics(rebuilt, features)["squared_error"]
        return error if bound is None else jnp.minimum(error, bound)

    return term
