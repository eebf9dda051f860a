"""Every unlearner, set up for an MLP on digits with class 3 to be forgotten."""

import optax

from unlearnjax import unlearning

ADAM = optax.adam(1e-3)
METHODS = {
    "retrain": unlearning.retrain(optax.adam(3e-3), num_epochs=8, batch_size=64),
    "finetune": unlearning.finetune(ADAM, num_epochs=2, batch_size=64),
    "finetune_last": unlearning.finetune_last(ADAM, layers=1, num_epochs=2),
    "retrain_last": unlearning.retrain_last(optax.adam(1e-2), layers=1, num_epochs=4),
    "gradient_ascent": unlearning.gradient_ascent(optax.sgd(0.03), num_epochs=10),
    "gradient_ascent_plus": unlearning.gradient_ascent_plus(ADAM, num_epochs=2, beta=0.9),
    "random_label": unlearning.random_label(ADAM, num_epochs=3),
    "salun": unlearning.salun(ADAM, num_epochs=3),
    "boundary_shrink": unlearning.boundary_shrink(ADAM, num_epochs=10),
    "boundary_expand": unlearning.boundary_expand(ADAM, num_epochs=10),
    "scrub": unlearning.scrub(ADAM, num_epochs=5, max_epochs=3),
    "scrub_rewind": unlearning.scrub(ADAM, num_epochs=3, max_epochs=3, rewind=True),
    "bad_teacher": unlearning.bad_teacher(optax.adam(3e-3), num_epochs=5),
    "unsir": unlearning.unsir(optax.adam(3e-3), num_noise=32, batch_size=64, retain_fraction=1.0),
    "influence": unlearning.influence(num_steps=5, damping=0.05),
    "fisher_forgetting": unlearning.fisher_forgetting(),
    "l1_sparse": unlearning.l1_sparse(ADAM, gamma=1e-3, num_epochs=3),
    "prune_finetune": unlearning.prune_finetune(optax.adam(1e-2), sparsity=0.8, num_epochs=3),
    "iterative_prune_finetune": unlearning.iterative_prune_finetune(
        optax.adam(1e-2), sparsity=0.6, per_round=0.4, prune_epochs=2, num_epochs=3, batch_size=64
    ),
    "laf": unlearning.laf(optax.adam(1e-2), batch_size=16),
    "just_in_time": unlearning.just_in_time(optax.sgd(2e-3), num_copies=10),
    "sisa": unlearning.sisa(optax.adam(5e-3), num_shards=2, num_slices=2, num_epochs=4),
    "s3t": unlearning.s3t(optax.adam(5e-3), num_slices=2, budget=2, rank=16, num_epochs=8),
    "acu": unlearning.acu(num_features=512),
    "npo": unlearning.npo(ADAM, num_steps=60, batch_size=64),
    "task_vector": unlearning.task_vector(ADAM, num_epochs=5),
    "ssd": unlearning.ssd(alpha=4.0),
    "loss_free_ssd": unlearning.loss_free_ssd(alpha=1.5),
    "adaptive_ssd": unlearning.adaptive_ssd(),
}
# Those that must have lost the class, where plain fine-tuning with the same budget has not. The
# others depend on how strong their settings are, or forget by their nature less.
FORGETTING = (
    "retrain",
    "retrain_last",
    "gradient_ascent",
    "gradient_ascent_plus",
    "random_label",
    "salun",
    "boundary_shrink",
    "boundary_expand",
    "scrub",
    "bad_teacher",
    "unsir",
    "fisher_forgetting",
    "prune_finetune",
    "laf",
    "just_in_time",
    "sisa",
    "s3t",
    "acu",
    "npo",
    "ssd",
    "loss_free_ssd",
    "adaptive_ssd",
)
