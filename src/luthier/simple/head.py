"""The head of a classifier: logistic regression by scikit-learn, its strength by cross-validation; where that would not
fit in memory, the mean of each label's examples."""

from __future__ import annotations

import contextlib
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# Inverse strengths of regularization that cross-validation chooses among.
STRENGTHS = (1.0, 10.0, 100.0)
_FOLDS = 5
# Cross-validation looks at so many examples at most, drawn by the seed.
_MOST_CROSSED = 2000
# Numbers that a fit may hold at once: examples times labels, features times labels.
_MOST_NUMBERS = 100_000_000
# What a cosine is multiplied by where labels are told apart by their means, so that probabilities are not all alike.
_SHARPNESS = 20.0


@dataclass(frozen=True)
class Head:
    """Scores of labels, linear in the features.

    Attributes:
        labels: In the order of the rows of `weights`.
        weights: (K, F); `bias`: (K,).
        kind: `logistic` or `means`.
        strength: Inverse strength of regularization, None for means.
    """

    labels: tuple[str, ...]
    weights: np.ndarray
    bias: np.ndarray
    kind: str
    strength: float | None = None

    def log_probabilities(self, features: Any) -> np.ndarray:
        """For each row of features the logarithm of each label's probability. (N, K)"""
        rows = features
        if self.kind == "means":
            rows = _unit(rows)
        scores = np.asarray(rows @ self.weights.T, dtype=np.float64) + self.bias
        highest = scores.max(1, keepdims=True)
        return np.asarray(scores - highest - np.log(np.exp(scores - highest).sum(1, keepdims=True)))


def fit_head(features: Any, labels: Sequence[str], seed: int) -> Head:
    """The head for examples with their labels.

    Args:
        features: (N, F), dense or sparse.
        seed: Decides the folds of cross-validation.
    """
    known = tuple(sorted(set(labels)))
    if len(known) == 1:
        return Head(known, np.zeros((1, features.shape[1])), np.zeros(1), "logistic", STRENGTHS[0])
    if not fits_logistic(features.shape, len(known)):
        return _means(features, labels, known)
    from sklearn.linear_model import LogisticRegression

    targets = np.array(labels)
    strength = _crossed(features, targets, seed)
    with _quietly():
        model = LogisticRegression(C=strength, max_iter=1000).fit(features, targets)
    weights, bias = model.coef_, model.intercept_
    if len(known) == 2:  # scikit-learn keeps the second label's scores alone, the first one's being 0
        weights, bias = np.vstack([np.zeros_like(weights), weights]), np.array([0.0, float(bias[0])])
    return Head(known, weights, bias, "logistic", strength)


def fits_logistic(shape: tuple[int, int], labels: int) -> bool:
    """Whether logistic regression fits in memory for (N, F) features and so many labels."""
    return max(shape) * labels <= _MOST_NUMBERS


def _crossed(features: Any, targets: np.ndarray, seed: int) -> float:
    """The strength with the best accuracy in stratified cross-validation, of equals the stronger regularization."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold

    draw = np.random.default_rng(seed)
    chosen = draw.permutation(len(targets))[:_MOST_CROSSED]
    features, targets = features[chosen], targets[chosen]
    folds = min(_FOLDS, max(Counter(targets.tolist()).values()))
    if folds < 2:
        return STRENGTHS[1]
    right = dict.fromkeys(STRENGTHS, 0)
    with _quietly():
        for train, held in StratifiedKFold(folds, shuffle=True, random_state=seed).split(targets, targets):
            if len(set(targets[train].tolist())) < 2:
                continue
            model = LogisticRegression(max_iter=300, tol=1e-3, warm_start=True)
            for strength in STRENGTHS:
                model.set_params(C=strength).fit(features[train], targets[train])
                right[strength] += int((model.predict(features[held]) == targets[held]).sum())
    return max(STRENGTHS, key=lambda strength: right[strength])


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Labels with fewer examples than folds, and fits that stop at their bound, are no news."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _means(features: Any, labels: Sequence[str], known: tuple[str, ...]) -> Head:
    """Labels by the mean of their examples' features, compared by their cosine (Rocchio 1971)."""
    from scipy.sparse import csr_matrix

    number = {label: index for index, label in enumerate(known)}
    rows = [number[label] for label in labels]
    members = csr_matrix((np.ones(len(rows)), (rows, range(len(rows)))), shape=(len(known), len(rows)))
    means = _unit(members @ _unit(features))
    weights = means.toarray() if hasattr(means, "toarray") else means
    return Head(known, _SHARPNESS * np.asarray(weights), np.zeros(len(known)), "means")


def _unit(features: Any) -> Any:
    from sklearn.preprocessing import normalize

    return normalize(features)
