"""Which data to forget: worst-case and easiest forget sets, and scores to rank examples by."""

from unlearnjax.selection import lower, scores
from unlearnjax.selection.lower import Lower
from unlearnjax.selection.projection import project, top
from unlearnjax.selection.search import DIRECTIONS, MODES, Selection, hypergradient, search

__all__ = [
    "DIRECTIONS",
    "MODES",
    "Lower",
    "Selection",
    "hypergradient",
    "lower",
    "project",
    "scores",
    "search",
    "top",
]
