"""Fitting datamodels: ridge with lambda by leave-one-out, LASSO, against scikit-learn."""

import jax
import numpy as np
from sklearn.linear_model import RidgeCV

from experiments.benchmarks import timing
from unlearnjax import attribution
from unlearnjax.attribution.datamodels import LAMBDAS
from unlearnjax.training import ensembles


def run(cases: tuple[tuple[int, int, int], ...], repeats: int = 3):
    """Yields a record per (models, training examples, outputs)."""
    for num_models, num_examples, num_outputs in cases:
        masks = ensembles.random_masks(jax.random.key(0), num_models, num_examples)
        outputs = np.random.default_rng(0).normal(size=(num_models, num_outputs, 1))
        outputs = outputs.astype(np.float32)
        x, y = np.asarray(masks, np.float32), outputs[:, :, 0]
        reference = RidgeCV(LAMBDAS, alpha_per_target=True)
        calls = {
            "ours": timing.program(attribution.ridge_datamodels, masks, outputs),
            "scikit-learn": lambda fit=reference.fit, x=x, y=y: fit(x, y).coef_,
        }
        case = f"{num_models} models, {num_examples} examples, {num_outputs} outputs"
        yield timing.compare("datamodels", f"ridge, {case}", calls, repeats, models=num_models)
        calls = {"ours": timing.program(attribution.lasso_datamodels, masks, outputs)}
        yield timing.compare("datamodels", f"lasso, {case}", calls, repeats, models=num_models)
