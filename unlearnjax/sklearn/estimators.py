"""`Ridge` and `RidgeClassifier` of scikit-learn, solved in closed form, that unlearn rows exactly.

References:
  Zhuang et al., "ACIL: Analytic Class-Incremental Learning", NeurIPS 2022 (arXiv 2205.14922), for
  learning; Tang et al., "ACU: Analytic Continual Unlearning for Efficient and Exact Forgetting with
  Privacy Preservation", 2025 (arXiv 2505.12239), for forgetting. The intercept (`centred`) and the
  ledger of rows are ours.
"""

import contextlib
import numbers
from collections import Counter
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from unlearnjax import checks
from unlearnjax.sklearn import centred as centred_lib
from unlearnjax.sklearn import ledger
from unlearnjax.sklearn.centred import Centred

_FLOATS = (np.float64, np.float32)


class _Memory(NamedTuple):
    """All that is kept of the rows that are learned.

    Attributes:
      centred: of inputs `[D]` and targets, `[C]` or for classes `[1 + C]`, the first always 1.
      counts: number of rows, `[C]` of each class or `[1]`.
      ledger: how often each row was learned, by its digest, or `None`.
      columns: the column in y of each class, in the order of arrival; empty for a regression.
      declared: the classes that are there without a row.
      settings: the parameters that all this was learned with.
      dtype: of the solution.
      shape: of the target of a row.
    """

    centred: Centred
    counts: np.ndarray
    ledger: Counter | None
    columns: dict[Any, int]
    declared: frozenset
    settings: dict[str, Any]
    dtype: np.dtype
    shape: tuple[int, ...]


class _Block(NamedTuple):
    """Rows, inputs and targets, to be learned or unlearned, without those of weight 0."""

    rows: np.ndarray
    weights: np.ndarray
    counts: np.ndarray
    digests: list[bytes]


class _Analytic(BaseEstimator):
    """What both estimators share; they say what targets are and what is read off a solution."""

    def __init__(
        self,
        alpha: float = 1.0,
        *,
        fit_intercept: bool = True,
        form: str = "gram",
        ledger: bool = True,
    ):
        self.alpha = alpha
        self.fit_intercept = fit_intercept
        self.form = form
        self.ledger = ledger

    def __copy__(self) -> Self:
        """With a ledger of its own, since that changes in place."""
        vars(other := type(self).__new__(type(self))).update(vars(self))
        if (memory := getattr(self, "_memory", None)) and memory.ledger is not None:
            other._memory = memory._replace(ledger=Counter(memory.ledger))
        return other

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Learns these rows and nothing else; what was learned before is dropped.

        Args:
          X: `[n, D]`, finite numbers.
          y: `[n]` labels of a classifier, `[n]` or `[n, C]` numbers of a regressor.
          sample_weight: `[n]`, >= 0; `None` is 1. A row of weight 0 is not there.

        Returns:
          The estimator. Cost: `n D^2 + 2 D^3 / 3` multiplications ('gram') or `2 n D^2`
          ('inverse'), in float64, and a digest of every row for the ledger.

        Raises:
          ValueError: for wrong shapes and types, parameters out of range, weights that are negative
            or all 0, and an `alpha` that is lost to rounding beside X. The estimator is left as it
            was.
        """
        return self._learn(None, X, y, sample_weight)

    def unfit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Unlearns these rows: the estimator is then one that never learned them, to rounding.

        With the last row all that was learned goes: the estimator is as before `fit`. A class goes
        with its last row, unless it was declared as one of `classes`.

        Args:
          X, y, sample_weight: as the rows were learned with, in any order and blocks.

        Returns:
          The estimator. Cost: as `fit` of these rows, whatever the number of those that stay.

        Raises:
          ValueError: as `fit`; and if a row was never learned with this y and weight, or is
            unlearned already. (Without a ledger only if what would be left is no sum of squares.)
            The estimator is left as it was.
        """
        check_is_fitted(self)
        memory = self._memory
        block = self._block(memory, *self._rows(X, y, sample_weight, reset=False))
        unlearned = Counter(block.digests)
        if memory.ledger is not None:
            known = [unlearned[key] <= memory.ledger[key] for key in block.digests]
            if not all(known):
                raise ValueError(
                    f"X must hold rows that are learned, with their y and sample_weight: row "
                    f"{known.index(False)} is not; the estimator is left as it was"
                )
        counts = memory.counts - block.counts
        if (counts < 0).any():
            raise ValueError(
                "y must not have more rows, of any class, than are learned; the estimator is left "
                "as it was"
            )
        with _own_words():
            left = centred_lib.forget(memory.centred, block.rows, block.weights)
        if not left.count:
            for name in [name for name in vars(self) if name.endswith("_")] + ["_memory"]:
                delattr(self, name)
            return self
        self._deploy(memory._replace(centred=left, counts=counts))
        if memory.ledger is not None:
            for key, count in unlearned.items():
                memory.ledger[key] -= count
                if not memory.ledger[key]:
                    del memory.ledger[key]
        return self

    def _learn(self, memory: _Memory | None, X, y, sample_weight, classes=None) -> Self:
        """`fit` where there is no memory, else one block of rows more."""
        before = dict(vars(self))
        try:
            X, y, weights = self._rows(X, y, sample_weight, reset=memory is None)
            if memory is None:
                memory = self._empty(X, y)
            memory = self._admit(memory, y, classes)
            block = self._block(memory, X, y, weights)
            with _own_words():
                centred = centred_lib.learn(memory.centred, block.rows, block.weights)
            counts = np.pad(memory.counts, (0, len(block.counts) - len(memory.counts)))
            self._deploy(memory._replace(centred=centred, counts=counts + block.counts))
        except BaseException:
            vars(self).clear()
            vars(self).update(before)
            raise
        if memory.ledger is not None:
            memory.ledger.update(block.digests)
        return self

    def _empty(self, X: np.ndarray, y: np.ndarray) -> _Memory:
        if not isinstance(self.alpha, numbers.Real):
            raise ValueError(f"alpha must be a number > 0, got {self.alpha!r}")
        checks.positive(alpha=self.alpha)
        centred = centred_lib.init(X.shape[1], self.alpha, self.form, bool(self.fit_intercept))
        return _Memory(
            centred,
            counts=np.zeros(0, int),
            ledger=Counter() if self.ledger else None,
            columns={},
            declared=frozenset(),
            settings=self.get_params(),
            dtype=X.dtype,
            shape=y.shape[1:],
        )

    def _rows(self, X, y, sample_weight, reset: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Checked, without the rows of weight 0."""
        X, y = validate_data(self, X, y, reset=reset, dtype=_FLOATS, **self._targets_are)
        if sample_weight is None:
            return X, y, np.ones(len(X))
        weights = check_array(
            sample_weight, ensure_2d=False, dtype=np.float64, input_name="sample_weight"
        )
        if weights.shape != (len(X),):
            raise ValueError(f"sample_weight must be [{len(X)}], got shape {weights.shape}")
        if (weights < 0).any():
            raise ValueError(f"sample_weight must be >= 0, got {weights.min()}")
        there = weights > 0
        if not there.any():
            raise ValueError("sample_weight must be > 0 for at least one row, got zero for all")
        return X[there], y[there], weights[there]

    def _block(self, memory: _Memory, X: np.ndarray, y: np.ndarray, weights: np.ndarray) -> _Block:
        """Refused if parameters or shapes are not those of the rows that are learned."""
        if self.get_params() != memory.settings:
            raise ValueError(
                f"parameters must stay {memory.settings} until fit begins anew, got "
                f"{self.get_params()}"
            )
        if y.shape[1:] != memory.shape:
            raise ValueError(f"y must have {1 + len(memory.shape)} axes as before, got {y.shape}")
        ids, targets, counts = self._encoded(memory, y)
        rows = np.column_stack([X, targets]).astype(np.float64)
        digests = [] if memory.ledger is None else ledger.digests(X, ids, weights)
        return _Block(rows, weights, counts, digests)

    def _deploy(self, memory: _Memory) -> None:
        weight, intercept = centred_lib.solution(memory.centred)
        self._read(memory, weight.astype(memory.dtype), intercept.astype(memory.dtype))
        self._memory = memory


class AnalyticRegressor(RegressorMixin, _Analytic):
    """scikit-learn's `Ridge`, solved in closed form, that unlearns rows exactly.

    Args:
      alpha: the regulariser, > 0. It shall grow with the number of rows, as in `Ridge`.
      fit_intercept: whether there is an intercept; it is not regularised.
      form: of the state, 'gram' (exact sums) or 'inverse' (the papers'), see `unlearnjax.analytic`.
      ledger: whether a digest of every row is kept (about 100 bytes), so that a row that was never
        learned is refused. Without it only rows are that cannot have been learned. Whoever holds
        the ledger can tell of a row whether it is learned; rows must be unlearned bit by bit as
        they were learned, so keep features that come out of a network.

    Attributes:
      coef_: `[D]`, or `[C, D]` for y of two axes; float32 if X was.
      intercept_: a number, or `[C]`.
      n_features_in_: D.
      feature_names_in_: `[D]`, where X had names.

    Parameters may not change between `fit`, `partial_fit` and `unfit` of the same rows.

    Examples:
      >>> X, y = np.arange(8.0).reshape(4, 2) ** 2, np.array([0.0, 1.0, 3.0, 2.0])
      >>> model = AnalyticRegressor().fit(X, y).unfit(X[:1], y[:1])
      >>> bool(np.allclose(model.predict(X), AnalyticRegressor().fit(X[1:], y[1:]).predict(X)))
      True
    """

    _targets_are = {"multi_output": True, "y_numeric": True}

    def partial_fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> Self:
        """Learns these rows in addition: in any blocks the same as `fit` of all, to rounding.

        Args, returns and raises: as `fit`; after an error the estimator is left as it was.
        """
        return self._learn(getattr(self, "_memory", None), X, y, sample_weight)

    def predict(self, X: ArrayLike) -> np.ndarray:
        """`[n]` or `[n, C]`, as y was: `X W + b`."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=_FLOATS)
        return X @ self.coef_.T + self.intercept_

    def _admit(self, memory: _Memory, y: np.ndarray, classes: None) -> _Memory:
        return memory

    def _encoded(self, memory: _Memory, y: np.ndarray):
        return y, y, np.array([len(y)])

    def _read(self, memory: _Memory, weight: np.ndarray, intercept: np.ndarray) -> None:
        self.coef_ = weight.T.reshape(*memory.shape, -1)
        self.intercept_ = intercept.reshape(memory.shape)[()]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


class AnalyticClassifier(ClassifierMixin, _Analytic):
    """scikit-learn's `RidgeClassifier`, solved in closed form, that unlearns rows exactly.

    Ridge regression on targets 1 for the row's class and -1 for all others. They are kept as 1 and
    0, so that a class that arrives late is one that all rows so far were not of, exactly. (Of a
    class that is gone, what is kept still has the name.)

    Args:
      alpha, fit_intercept, form, ledger: as in `AnalyticRegressor`.

    Attributes:
      classes_: `[C]`, sorted: those of rows that are learned, and those that were declared.
      coef_: `[C, D]`, or `[1, D]` of the second of two classes; float32 if X was.
      intercept_: `[C]` or `[1]`.
      n_features_in_, feature_names_in_: as in `AnalyticRegressor`.

    Examples:
      >>> X, y = np.array([[0.0], [1.0], [2.0], [9.0]]), np.array(["no", "no", "yes", "yes"])
      >>> model = AnalyticClassifier().fit(X, y)
      >>> model.unfit(X[3:], y[3:]).predict([[1.8]])
      array(['yes'], dtype='<U3')
    """

    _targets_are = {}

    def partial_fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        classes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Learns these rows in addition: in any blocks the same as `fit` of all, to rounding.

        Args:
          X, y, sample_weight: as in `fit`. Classes may be new at any time.
          classes: declares classes that may have no rows yet; they stay when their rows go.

        Returns and raises: as `fit`, and `ValueError` for a y that is not among `classes`; the
        estimator is left as it was.
        """
        return self._learn(getattr(self, "_memory", None), X, y, sample_weight, classes)

    def decision_function(self, X: ArrayLike) -> np.ndarray:
        """`[n, C]` in the order of `classes_`, or `[n]` for the second of two: `X W + b`."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=_FLOATS)
        scores = X @ self.coef_.T + self.intercept_
        return scores[:, 0] if len(self.classes_) == 2 else scores

    def predict(self, X: ArrayLike) -> np.ndarray:
        """`[n]`: the class of the largest score."""
        scores = self.decision_function(X)
        chosen = (scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(axis=1)
        return self.classes_[chosen]

    def _admit(self, memory: _Memory, y: np.ndarray, classes) -> _Memory:
        """With a column for every class that is new."""
        check_classification_targets(y)
        columns, labels, declared = dict(memory.columns), set(y.tolist()), frozenset()
        if classes is not None:
            if np.ndim(classes) != 1:
                raise ValueError(f"classes must be [C], got shape {np.shape(classes)}")
            declared = frozenset(np.asarray(classes).tolist())
            if not labels <= declared:
                raise ValueError(
                    f"y must be among classes {sorted(declared)}, got {sorted(labels - declared)}"
                )
            labels |= declared
        if len({isinstance(label, str) for label in labels | columns.keys()}) > 1:
            raise ValueError(
                f"y must be strings alone or numbers alone, got {sorted(map(str, labels))}"
            )
        for label in sorted(labels - columns.keys()):
            columns[label] = len(columns)
        return memory._replace(columns=columns, declared=memory.declared | declared)

    def _encoded(self, memory: _Memory, y: np.ndarray):
        unknown = sorted(set(y.tolist()) - memory.columns.keys(), key=str)
        if unknown:
            raise ValueError(f"y must be among the classes {self.classes_.tolist()}, got {unknown}")
        column = np.array([memory.columns[label] for label in y.tolist()])
        counts = np.bincount(column, minlength=len(memory.columns))
        targets = np.eye(len(counts))[column]
        return column, np.column_stack([np.ones(len(y)), targets]), counts

    def _read(self, memory: _Memory, weight: np.ndarray, intercept: np.ndarray) -> None:
        there = [c for c, i in memory.columns.items() if memory.counts[i] or c in memory.declared]
        there.sort()
        columns = [1 + memory.columns[label] for label in there]
        # Targets 1 and -1 are twice those kept, less the target of ones.
        coef = 2 * weight[:, columns] - weight[:, :1]
        intercept = 2 * intercept[columns] - intercept[:1]
        scored = slice(1, None) if len(there) == 2 else slice(None)
        self.classes_ = np.array(there)
        self.coef_, self.intercept_ = coef.T[scored], intercept[scored]


@contextlib.contextmanager
def _own_words():
    """Errors of `analytic` in the words of the estimators."""
    words = {
        "the features": "X",
        "features": "X",
        "gamma": "alpha",
        "the state": "the estimator",
        "weights must": "sample_weight must",
    }
    try:
        yield
    except ValueError as error:
        message = str(error)
        for theirs, ours in words.items():
            message = message.replace(theirs, ours)
        raise ValueError(message) from error
