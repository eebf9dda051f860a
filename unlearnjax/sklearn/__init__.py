"""Closed-form learning and unlearning in scikit-learn's terms: estimators that have `unfit`.

`AnalyticRegressor` is scikit-learn's `Ridge` and `AnalyticClassifier` its `RidgeClassifier`, with
the same `alpha` and an intercept that is not regularised; both are learned and unlearned exactly by
`unlearnjax.analytic`.

A pipeline has no `unfit`: `pipeline[-1].unfit(pipeline[:-1].transform(X), y)` unlearns in its last
step. The steps before it, a scaler with its means, keep what they took from the rows.

Examples:
  >>> from sklearn.datasets import load_digits
  >>> from unlearnjax.sklearn import AnalyticClassifier
  >>> X, y = load_digits(return_X_y=True)
  >>> model = AnalyticClassifier().fit(X, y).unfit(X[:50], y[:50])
  >>> never = AnalyticClassifier().fit(X[50:], y[50:])
  >>> bool(np.allclose(model.coef_, never.coef_, rtol=0, atol=1e-10))
  True
"""

from unlearnjax.sklearn.estimators import AnalyticClassifier, AnalyticRegressor

__all__ = ["AnalyticClassifier", "AnalyticRegressor"]
