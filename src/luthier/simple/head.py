"""The head of a classifier: logistic regression by scikit-learn, its strength by cross-validation; where that would not
fit in memory, the mean of each label's examples."""

from __future__ import annotations

import contextlib
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# Inverse strengths of regularization that cross-validation chooses among.
STRENGTHS = (1.0, 3.0, 10.0, 30.0, 100.0)
_FOLDS = 5
# From so many examples times labels on, sparse features are fitted by stochastic gradients (Defazio et al. 2014) in so
# many passes, whose time grows with the examples alone. On the 10,003 messages of Banking77 accuracy is the same as at
# the optimum, which scikit-learn's default takes 47 passes of several products each to reach.
_MANY, _PASSES = 200_000, 10
# Cross-validation looks at so many examples at most, drawn by the seed.
_MOST_CROSSED = 5000
# Of a sparse matrix.
_PARTS = ("data", "indices", "indptr")
# Numbers that a fit may hold at once: examples times labels, features times labels.
_MOST_NUMBERS = 100_000_000
# What a cosine is multiplied by where labels are told apart by their means, so that probabilities are not all alike.
_SHARPNESS = 20.0


@dataclass(frozen=True)
class Head:
    """Scores of labels, linear in the features.

    Attributes:
        labels: In the order of the rows of `weights`.
        weights: (K, F), sparse where features are and labels are told apart by their means; `bias`: (K,).
        kind: `logistic`, `means`, `several`: a logistic regression for each label by itself, or `own`: the features are
            the scores already.
        strength: Inverse strength of regularization, None for means.
    """

    labels: tuple[str, ...]
    weights: Any
    bias: np.ndarray
    kind: str
    strength: float | None = None

    @classmethod
    def read(cls, row: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> Head:
        """What `described` and `tensors` gave."""
        weights: Any = tensors.get("weights")
        if row["sparse"]:
            from scipy.sparse import csr_matrix

            parts = tuple(tensors[f"weights.{part}"] for part in _PARTS)
            weights = csr_matrix(parts, shape=(len(row["labels"]), row["sparse"]))
        return cls(tuple(row["labels"]), weights, tensors["bias"], row["head"], row["strength"])

    def described(self) -> dict[str, Any]:
        """All but tensors, as JSON; `sparse` is the number of features where weights are, and else 0."""
        sparse = self.weights.shape[1] if hasattr(self.weights, "indptr") else 0
        return {"labels": list(self.labels), "head": self.kind, "strength": self.strength, "sparse": sparse}

    def tensors(self) -> dict[str, np.ndarray]:
        """What is numbers."""
        if hasattr(self.weights, "indptr"):
            return {"bias": self.bias, **{f"weights.{part}": getattr(self.weights, part) for part in _PARTS}}
        return {"bias": self.bias, "weights": self.weights}

    def log_probabilities(self, features: Any) -> np.ndarray:
        """For each row of features the logarithm of each label's probability; they sum to 1 unless an answer may have
        several labels. (N, K)"""
        rows = features
        if self.kind == "means":
            rows = _unit(rows)
        products = rows @ self.weights.T
        scores = np.asarray(products.toarray() if hasattr(products, "toarray") else products, np.float64) + self.bias
        if self.kind == "several":
            return np.asarray(-np.logaddexp(0.0, -scores))
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
        model = LogisticRegression(C=strength, **_solving(features, len(known), seed)).fit(features, targets)
    weights, bias = model.coef_, model.intercept_
    if len(known) == 2:  # scikit-learn keeps the second label's scores alone, the first one's being 0
        weights, bias = np.vstack([np.zeros_like(weights), weights]), np.array([0.0, float(bias[0])])
    return Head(known, weights, bias, "logistic", strength)


def head_of_scores(labels: Sequence[str]) -> Head:
    """The head for features that are the labels' scores, in their order."""
    return Head(tuple(labels), np.eye(len(labels)), np.zeros(len(labels)), "own")


def fit_head_of_several(features: Any, answers: Sequence[Sequence[str]], seed: int) -> Head:
    """The head for examples that may have several labels each: whether a label belongs to an answer, label by label.

    Args:
        features: (N, F), dense or sparse.
        seed: Decides the folds of cross-validation.
    """
    from sklearn.model_selection import KFold

    known = tuple(sorted({label for answer in answers for label in answer}))
    wanted = np.array([[label in answer for label in known] for answer in answers], dtype=int)
    chosen = np.random.default_rng(seed).permutation(len(wanted))[:_MOST_CROSSED]
    solving = _solving(features, len(known), seed)
    crossed, held_wanted = features[chosen] if "solver" in solving else _compact(features[chosen]), wanted[chosen]
    found = dict.fromkeys(STRENGTHS, 0.0)
    if len(chosen) >= _FOLDS:
        for train, held in KFold(_FOLDS, shuffle=True, random_state=seed).split(held_wanted):
            for strength in STRENGTHS:
                head = _each(crossed[train], held_wanted[train], known, strength, solving)
                guessed = head.log_probabilities(crossed[held]) >= np.log(0.5)
                found[strength] += float((guessed == held_wanted[held].astype(bool)).sum())
    return _each(features, wanted, known, max(STRENGTHS, key=lambda strength: found[strength]), solving)


def _each(
    features: Any, wanted: np.ndarray, known: tuple[str, ...], strength: float, solving: Mapping[str, Any]
) -> Head:
    from sklearn.linear_model import LogisticRegression

    weights, bias = np.zeros((len(known), features.shape[1])), np.zeros(len(known))
    with _quietly():
        for number in range(len(known)):
            share = wanted[:, number].mean()
            if share in (0.0, 1.0):  # nothing to tell apart: its share stands for it
                bias[number] = 20.0 if share else -20.0
                continue
            model = LogisticRegression(C=strength, **solving).fit(features, wanted[:, number])
            weights[number], bias[number] = model.coef_[0], model.intercept_[0]
    return Head(known, weights, bias, "several", strength)


def chosen_labels(head: Head, logs: np.ndarray) -> tuple[tuple[str, ...], float]:
    """The labels of an answer, and how sure that is: of one label its probability; of several all that are likelier
    than not, one at least, and the probability of just these, each label by itself.

    Args:
        logs: Logarithms of the labels' probabilities. (K,)
    """
    best = int(logs.argmax())
    if head.kind != "several":
        return (head.labels[best],), float(np.exp(logs[best]))
    taken = logs >= np.log(0.5)
    taken[best] = True
    others = np.log1p(-np.exp(np.minimum(logs, -1e-12)))
    labels = tuple(label for label, one in zip(head.labels, taken, strict=True) if one)
    return labels, float(np.exp(np.where(taken, logs, others).sum()))


def fits_logistic(shape: tuple[int, int], labels: int) -> bool:
    """Whether logistic regression fits in memory for (N, F) features and so many labels."""
    return max(shape) * labels <= _MOST_NUMBERS


def _crossed(features: Any, targets: np.ndarray, seed: int) -> float:
    """The strength with the best accuracy in stratified cross-validation, of equals the stronger regularization."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold

    draw = np.random.default_rng(seed)
    chosen = draw.permutation(len(targets))[:_MOST_CROSSED]
    solving = _solving(features, len(set(targets.tolist())), seed)
    features, targets = features[chosen] if "solver" in solving else _compact(features[chosen]), targets[chosen]
    folds = min(_FOLDS, max(Counter(targets.tolist()).values()))
    if folds < 2:
        return STRENGTHS[1]
    right = dict.fromkeys(STRENGTHS, 0)
    with _quietly():
        for train, held in StratifiedKFold(folds, shuffle=True, random_state=seed).split(targets, targets):
            if len(set(targets[train].tolist())) < 2:
                continue
            for strength in STRENGTHS:  # each from nothing: a warm start stops where the last strength ended
                model = LogisticRegression(C=strength, **solving).fit(features[train], targets[train])
                right[strength] += int((model.predict(features[held]) == targets[held]).sum())
    return max(STRENGTHS, key=lambda strength: right[strength])


def _solving(features: Any, labels: int, seed: int) -> dict[str, Any]:
    """How a logistic regression on such features is solved: scikit-learn's settings."""
    if hasattr(features, "indptr") and features.shape[0] * labels >= _MANY:
        return {"solver": "saga", "max_iter": _PASSES, "random_state": seed}
    return {"max_iter": 1000}


def _compact(features: Any) -> Any:
    """Features with the same inner products and no more of them than rows, where that is less to compute with.

    A regularised linear model only sees the products of its examples (the representer theorem; Kimeldorf and Wahba
    1971), so it predicts the same from them, and has a weight for each example rather than for each word.
    """
    rows, columns = features.shape
    if columns <= rows or not hasattr(features, "indptr"):
        return features
    products = (features @ features.T).toarray().astype(np.float64)
    # Equal rows and empty ones make the products singular; so little beside their mean changes no prediction.
    products[np.diag_indices(rows)] += 1e-9 * max(np.trace(products) / rows, 1e-9)
    return np.linalg.cholesky(products)


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
    return Head(known, _unit(members @ _unit(features)) * _SHARPNESS, np.zeros(len(known)), "means")


def _unit(features: Any) -> Any:
    from sklearn.preprocessing import normalize

    return normalize(features)
