"""What a model says of edges that were deleted, and how far its parameters are from oracles'."""

from collections.abc import Callable, Mapping

import jax
import numpy as np

from unlearnjax import checks
from unlearnjax.audit import inputs
from unlearnjax.audit.membership import auc
from unlearnjax.types import PyTree

# What each column means. The ideal value of every one is the oracle's.
COLUMNS = {
    "deleted_auc": "probability that a retained edge scores higher than a deleted one: 0.5 where "
    "they are alike, 1 where all deleted edges stand out, as they do where too much is forgotten",
    "deleted_non_edge_auc": "probability that a deleted edge scores higher than a pair that never "
    "was one",
    "edge_membership": "mean probability of an attacker, who learned from this model's scores to "
    "tell retained edges from pairs that never were one, that a deleted edge is one",
    "membership_ratio": "MI ratio, of means: how probably deleted edges are edges by the original, "
    "by the same by the model, to an attacker who learned from the original's scores; the "
    "original's is 1, published as the higher the better",
    "verification_error": "sum over the parameters of the Euclidean distance to an oracle's, mean "
    "over oracles; an oracle's own, to the others, is what another seed makes of it",
}


def deleted_auc(
    deleted: np.ndarray, retained: np.ndarray, *, num_draws: int = 500, seed: int = 0
) -> float:
    """The published D_f AUC: of retained edges against deleted ones.

    Mean over draws of as many retained edges as there are deleted ones. Its authors call 1 the
    best; but homophily keeps deleted edges likely for a model that never saw them, so the value of
    a perfect unlearner is the oracle's, and one above it says which edges were deleted.

    Args:
      deleted, retained: scores `[N]`, `[M]`.
      num_draws: at least 1.
      seed: of the draws.

    Raises:
      ValueError: as `auc`.
    """
    checks.at_least(1, num_draws=num_draws)
    deleted, retained = inputs.scores(1, deleted=deleted, retained=retained)
    rng, size = np.random.default_rng(seed), min(len(deleted), len(retained))
    draws = (rng.choice(retained, size, replace=False) for _ in range(num_draws))
    return float(np.mean([auc(kept, deleted) for kept in draws]))


def edge_membership(
    deleted: np.ndarray, retained: np.ndarray, non_edges: np.ndarray, *, seed: int = 0
) -> np.ndarray:
    """`[N]`: probabilities of an attacker that deleted edges are edges.

    A logistic regression on the standardised score tells retained edges (1) from pairs that never
    were edges (0), equally many of each, and is asked about the deleted ones. Value of a perfect
    unlearner: the oracle's.

    Args:
      deleted, retained, non_edges: scores `[N]`, `[M]`, `[K]` of one model.
      seed: of the draw of the larger set.

    Raises:
      ValueError: as `auc`.
    """
    return _attacker(retained, non_edges, seed)(deleted)


def membership_ratio(
    before: np.ndarray,
    after: np.ndarray,
    retained: np.ndarray,
    non_edges: np.ndarray,
    *,
    seed: int = 0,
) -> float:
    """The published "MI ratio": the attacker's belief in deleted edges before, by that after.

    The mean over them of `edge_membership`'s probabilities before by that after, of one attacker
    for both models, which learned from the original's scores. 1: the attacker believes as much as
    before; above 1: less, which is published as better. Published is the mean of the ratios, in
    which a single edge that the attacker is sure not to be one outweighs all others; the code
    computes that of the inverse, trains the attacker on joined embeddings and calls it with two
    probabilities. Value of a perfect unlearner: the oracle's, to which homophily alone may give 1.

    Args:
      before, after: scores `[N]` of the same deleted edges, by the original and by another model.
      retained, non_edges: scores `[M]`, `[K]` by the original.
      seed: see `edge_membership`.

    Raises:
      ValueError: as `auc`; for other edges before than after.
    """
    if np.shape(before) != np.shape(after):
        raise ValueError(
            f"after must be of the edges of before, {list(np.shape(before))}, got "
            f"{list(np.shape(after))}"
        )
    attacker = _attacker(retained, non_edges, seed)
    return float(attacker(before).mean() / attacker(after).mean())


def _attacker(
    retained: np.ndarray, non_edges: np.ndarray, seed: int
) -> Callable[[np.ndarray], np.ndarray]:
    """Probabilities of scores `[N]` to be of edges."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    retained, others = inputs.scores(1, retained=retained, non_edges=non_edges)
    rng, size = np.random.default_rng(seed), min(len(retained), len(others))
    members, others = (rng.choice(x, size, replace=False) for x in (retained, others))
    attacker = make_pipeline(StandardScaler(), LogisticRegression())
    attacker.fit(np.concatenate([members, others])[:, None], np.repeat([1, 0], size))

    def asked(deleted: np.ndarray) -> np.ndarray:
        (deleted,) = inputs.scores(1, deleted=deleted)
        return attacker.predict_proba(deleted[:, None])[:, 1]

    return asked


def verification_error(params: PyTree, oracle: PyTree) -> float:
    """Sum over the parameters of the Euclidean distance between two models.

    Meaningless by itself: two models that are trained alike from other seeds are far apart. Beside
    it stands that distance, of two oracles. NaN for models of other parameters.

    Examples:
      >>> verification_error({"a": np.zeros(2), "b": np.ones(1)}, {"a": 3 * np.ones(1)})
      nan
    """
    own, other = (_flat(tree) for tree in (params, oracle))
    if {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in other.items()}:
        return float("nan")
    return float(sum(np.linalg.norm(own[name] - other[name]) for name in own))


def _flat(tree: PyTree) -> Mapping[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): np.asarray(leaf, np.float64) for path, leaf in leaves}
