"""What labels can be read from features: by a linear classifier, and from their neighbours.

Both standardise each feature by its mean and deviation over the training set (a constant feature
becomes 0), so that none counts for more because its unit is small.
"""

import warnings
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from erdpaper.representations.rows import checked

# of L-BFGS: well-posed probes take tens
_ITERATIONS = 2000


class Probe(NamedTuple):
    """What `linear_probe` found: shares of labels that are right, and whether the fit converged."""

    accuracy: float
    train_accuracy: float
    converged: bool


def linear_probe(
    train_features: Tensor, train_labels: Tensor, test_features: Tensor, test_labels: Tensor
) -> Probe:
    """How well a linear map of features (N, F) tells the labels (M,) of other features (M, F).

    Multinomial logistic regression that minimises the summed log loss plus ||W||_F^2 / 2
    (scikit-learn with C = 1, by L-BFGS): deterministic, and unique whatever N and F. ValueError if
    shapes do not fit, features are not finite, there are fewer than 2 classes, or a test label is
    not among the training labels.
    """
    # imported here: it takes a second, and the measures beside these do without
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, labels, fresh, answers = _checked(train_features, train_labels, test_features, test_labels)
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=_ITERATIONS))
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always", ConvergenceWarning)
        probe.fit(x, labels)
    return Probe(
        accuracy=float(probe.score(fresh, answers)),
        train_accuracy=float(probe.score(x, labels)),
        converged=not any(issubclass(one.category, ConvergenceWarning) for one in heard),
    )


def neighbour_accuracy(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    k: int = 20,
) -> float:
    """How often the k nearest training points vote for the right label of a test point.

    Near by cosine distance of the standardised features, since what feature norms do as noise grows
    is not what labels do; every neighbour has one vote, and of labels with equally many the
    smallest wins. Arguments and errors as `linear_probe`; k is from 1 to N.
    """
    # imported here, as above
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, labels, fresh, answers = _checked(train_features, train_labels, test_features, test_labels)
    if not 1 <= k <= len(x):
        raise ValueError(f"k must be from 1 to the {len(x)} training points, got {k}")
    voters = KNeighborsClassifier(k, metric="cosine", algorithm="brute")
    return float(make_pipeline(StandardScaler(), voters).fit(x, labels).score(fresh, answers))


def _checked(
    x: Tensor, labels: Tensor, fresh: Tensor, answers: Tensor
) -> list[np.ndarray[Any, Any]]:
    """All four as arrays, if features and labels fit each other."""
    features = checked(x, 2), checked(fresh, 1)
    if x.shape[1] != fresh.shape[1]:
        widths = f"{x.shape[1]} and {fresh.shape[1]}"
        raise ValueError(f"training and test features must be as many, got {widths}")
    for rows, marks in zip(features, (labels, answers), strict=True):
        if marks.shape != rows.shape[:1] or marks.is_floating_point():
            got = f"{marks.dtype} {tuple(marks.shape)}"
            raise ValueError(f"labels must be integers ({len(rows)},), one per point, got {got}")
    known = set(labels.tolist())
    if len(known) < 2 or not known.issuperset(answers.tolist()):
        raise ValueError("training labels must have at least 2 classes and all of the test labels")
    return [part.cpu().numpy() for part in (features[0], labels, features[1], answers)]
