"""Label-agnostic forgetting: unlearn in feature space, guided by two density models, no labels.

Shen et al., "Label-Agnostic Forgetting: A Supervision-Free Unlearning in Deep Models", ICLR 2024
(arXiv 2404.00506).
"""

import jax
import jax.numpy as jnp
import optax

from unlearnjax import checks, models, tasks, training
from unlearnjax import data as data_lib
from unlearnjax.training.step import LossFn
from unlearnjax.types import Array, Batch, Request, Task, Unlearner, Variables
from unlearnjax.unlearning.at_layer import at_layer
from unlearnjax.unlearning.descend import Transform, init_nothing, resolve
from unlearnjax.unlearning.objectives import member
from unlearnjax.unlearning.parts import join
from unlearnjax.unlearning.teachers import original

# Of the divergence beside the squared error in the density models' loss, as published.
KL_WEIGHT = 0.025


def laf(
    tx: Transform,
    *,
    align_rate: float = 2.0,
    num_epochs: int = 20,
    batch_size: int = 32,
    temperature: float = 20.0,
    latent: int = 8,
    vae_epochs: int = 10,
    vae_learning_rate: float = 1e-3,
    layer: str | None = None,
) -> Unlearner:
    """LAF: retain features stay typical of the training data, forget features leave their own.

    Two variational autoencoders are fitted to the original's penultimate features: `h` to those of
    all training data, `h_f` to those of the forget set. Then two steps alternate on every batch of
    forget examples f and retain examples r, with `m_h` the squared error of features under `h`,
    `e_h = exp(m_h / (1 + m_h))`, and c the cosine of features to the original's:

      extractor: `sum over r of e_h  -  sum over f of e_{h_f}`
      alignment: `sum over r of (1 - c_r - log sum over f of exp((1 - c_f) / temperature))`

    each with a `tx` of its own. Only features enter, so the classifier gets no gradient. All in
    evaluation mode. As in the authors' code, except that their decoders end in a sigmoid, which
    features outside of [0, 1] do not pass, and draw latents where these take the mean, and that
    they fit `h` to the remaining data alone; and their encoders are two layers of 128 and 32, these
    one of 64. LAF+R, with
    a supervised repair of the classifier, is `chain(laf(...), finetune_last(tx, layers=1))`.

    Args:
      tx: optax transformation of the extractor; Adam in the paper, 5e-5 on 60,000 examples. Not
        `training.averaged`: both steps move the same parameters.
      align_rate: updates of the alignment, by the same transformation, are so many times as large,
        >= 0; 2 to 5 in the paper.
      num_epochs: passes over the smaller set, the forget set in general, each step with a batch of
        the other beside it.
      batch_size: examples of each set per step.
      temperature: of the contrast, > 0; 5 or 20 in the paper.
      latent: dimensions of the autoencoders' latents; 8, or 16 for a ResNet, in the paper.
      vae_epochs, vae_learning_rate: of their training, by Adam.
      layer: whose activations are the features, see `at_layer`; `None`, as there, the penultimate.

    Returns:
      An unlearner that needs forget and retain data, no labels; the task's outputs must have
      'features'. Cost: two forward and backward passes per step, one forward pass over both sets,
      and the training of two small autoencoders.

    Raises:
      ValueError: for a value out of range, and at the request for a `tx` that averages.
    """
    checks.at_least(0, align_rate=align_rate)
    checks.at_least(
        1, num_epochs=num_epochs, batch_size=batch_size, latent=latent, vae_epochs=vae_epochs
    )
    checks.positive(temperature=temperature, vae_learning_rate=vae_learning_rate)
    density = density_task(latent)

    def fit(rng: Array, features: Array, weight: Array) -> Variables:
        n = features.shape[0]
        state, _ = training.train(
            density,
            optax.adam(vae_learning_rate),
            {"inputs": features, "weight": weight},
            jnp.arange(n),
            rng,
            num_epochs=vae_epochs,
            batch_size=min(batch_size, n),
        )
        return state.variables

    def update(rng, task, variables, memory, request: Request):
        tx_rng, all_rng, forget_rng, loop_rng = jax.random.split(rng, 4)
        transform = resolve(tx, tx_rng, task, variables, request)
        task = tasks.expected(task, 1)  # features are compared: the original's draws are kept
        data = join({"forget": request.forget, "retain": request.retain})
        num_forget = data_lib.num_examples(request.forget)
        weight = data["weight"] = data_lib.weights(data)
        before = training.outputs(task, original(variables, request), data)
        features = data["original.features"] = tasks.features(before)
        typical = fit(all_rng, features, weight)
        forgotten = fit(forget_rng, features[:num_forget], weight[:num_forget])
        scaled = optax.chain(transform, optax.scale(align_rate))
        leave, align = leaving(task, density, typical, forgotten), aligning(task, temperature)
        players = {
            "extractor": training.Player(leave, transform, part=training.WHOLE),
            "alignment": training.Player(align, scaled, part=training.WHOLE),
        }
        state, _ = training.run_epochs(
            training.alternate(players),
            training.init_players(variables, players),
            data,
            jnp.arange(len(features)),
            loop_rng,
            num_epochs=num_epochs,
            batch_size=batch_size,
            order=_order(num_forget, len(features), batch_size),
        )
        return training.deploy_players(state, players), memory

    needs = frozenset({"forget", "retain", "inputs"})
    return at_layer(Unlearner(init_nothing, update, needs), layer)


def density_task(latent: int) -> Task:
    """A variational autoencoder with the loss `|x - x'|^2 + KL_WEIGHT * KL(q(z|x) || N(0, I))`.

    Metric: `squared_error`, summed over the dimensions.
    """
    vae = tasks.autoencoding(tasks.from_linen(models.VAE(latent), rng_names=("sample",)))

    def metrics(outputs, batch):
        return {"squared_error": jnp.sum((outputs["reconstruction"] - batch["inputs"]) ** 2, -1)}

    def loss(outputs, batch):
        error = metrics(outputs, batch)["squared_error"]
        return error + KL_WEIGHT * (vae.loss(outputs, batch) - error / 2)

    return vae._replace(loss=loss, metrics=metrics)


def leaving(task: Task, density: Task, typical: Variables, forgotten: Variables) -> LossFn:
    """The extractor's loss per example: `e_h` on retain, `-e_{h_f}` on forget; see `laf`."""

    def loss_fn(variables: Variables, batch: Batch, rng: Array):
        del rng
        outputs, updated = task.apply(variables, batch, None, False)
        features = {"inputs": tasks.features(outputs)}

        def error(model):
            rebuilt, _ = density.apply(model, features, None, False)
            squared = density.metrics(rebuilt, features)["squared_error"]
            return jnp.exp(squared / (1 + squared))

        losses = jnp.where(member(batch, "forget") > 0, -error(forgotten), error(typical))
        return losses, ({}, updated)

    return loss_fn


def aligning(task: Task, temperature: float) -> LossFn:
    """The alignment's loss per example, 0 on forget; see `laf`.

    The batch holds the original's features as 'original.features'. A forget example of weight w
    counts as w examples.
    """

    def loss_fn(variables: Variables, batch: Batch, rng: Array):
        del rng
        outputs, updated = task.apply(variables, batch, None, False)
        distance = 1 - optax.losses.cosine_similarity(
            tasks.features(outputs), batch["original.features"], epsilon=1e-12
        )
        forget = member(batch, "forget")
        weight = forget * batch["weight"]
        counts = weight > 0
        moved = jax.nn.logsumexp(
            jnp.where(
                counts,
                distance / temperature + jnp.log(jnp.where(counts, weight, 1.0)),
                jnp.finfo(distance.dtype).min,  # finite even where no example counts
            )
        )
        losses = jnp.where(forget > 0, 0.0, distance - moved)
        return losses, ({}, updated)

    return loss_fn


def _order(num_forget: int, num_examples: int, batch_size: int):
    """`(key, epoch) -> [steps, B + B]`: a batch of each part, until the shorter one ends."""

    def order(key, epoch):
        del epoch
        parts = jnp.arange(num_forget), jnp.arange(num_forget, num_examples)
        rows = [
            data_lib.epoch_order(k, part, min(batch_size, part.shape[0]))
            for k, part in zip(jax.random.split(key), parts, strict=True)
        ]
        steps = min(len(r) for r in rows)
        return jnp.concatenate([r[:steps] for r in rows], axis=1)

    return order
