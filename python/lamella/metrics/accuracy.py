"""How often predictions are right."""

from __future__ import annotations

from typing import Any

import numpy as np

from lamella import arguments, registry
from lamella.losses.base import align
from lamella.metrics.base import MeanOfRows, Metric


class _Matches(MeanOfRows):
    """The share of matches, which subclasses compute."""

    direction = "up"

    def _matches(self, y_true: np.ndarray, y_pred: np.ndarray) -> np.ndarray:
        """Return a bool array, one entry or more a row."""
        raise NotImplementedError

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self._add(self._matches(np.asarray(y_true), np.asarray(y_pred)), sample_weight)


def _labels(owner: str, y_true: np.ndarray, y_pred: np.ndarray) -> np.ndarray:
    """Return class numbers (...) for predictions (..., classes), from (...) or (..., 1)."""
    rows = y_pred.shape[:-1]
    if y_true.shape == rows:
        return y_true
    if y_true.shape == (*rows, 1):
        return y_true.reshape(rows)
    raise ValueError(
        f"{owner}: y_true expects class numbers of shape {rows} for predictions of shape "
        f"{y_pred.shape}, got shape {y_true.shape}"
    )


def _one_hot(owner: str, y_true: np.ndarray, y_pred: np.ndarray) -> np.ndarray:
    """Return the class numbers of one-hot targets of the shape of ``y_pred``."""
    if y_true.shape != y_pred.shape:
        raise ValueError(
            f"{owner}: y_true expects one-hot rows in the shape of y_pred, {y_pred.shape}, "
            f"got shape {y_true.shape}"
        )
    return y_true.argmax(axis=-1)


@registry.register("metric")
class Accuracy(_Matches):
    """How often ``y_pred`` equals ``y_true``, entry by entry.

    In ``compile(metrics=["accuracy"])`` the name stands for the accuracy that fits the labels; see
    :func:`lamella.metrics.get`.

    Examples
    --------
    >>> Accuracy()([1, 2, 3, 4], [0, 2, 3, 4])
    0.75
    """

    def __init__(self, name: str = "accuracy", dtype: Any = None) -> None:
        super().__init__(name, dtype)

    def _matches(self, y_true: np.ndarray, y_pred: np.ndarray) -> np.ndarray:
        y_true, y_pred = align(self.name, y_true, y_pred)
        return y_true == y_pred


@registry.register("metric")
class SparseCategoricalAccuracy(_Matches):
    """How often the largest of ``y_pred`` (..., classes) is the class number ``y_true``.

    ``y_true`` is (...) or (..., 1).

    Examples
    --------
    >>> SparseCategoricalAccuracy()([2, 1], [[0.1, 0.6, 0.3], [0.05, 0.95, 0.0]])
    0.5
    """

    def __init__(self, name: str = "sparse_categorical_accuracy", dtype: Any = None) -> None:
        super().__init__(name, dtype)

    def _matches(self, y_true: np.ndarray, y_pred: np.ndarray) -> np.ndarray:
        return y_pred.argmax(axis=-1) == _labels(self.name, y_true, y_pred)


@registry.register("metric")
class CategoricalAccuracy(_Matches):
    """How often the largest of ``y_pred`` is where the largest of one-hot ``y_true`` is.

    Examples
    --------
    >>> CategoricalAccuracy()([[0, 0, 1], [0, 1, 0]], [[0.1, 0.9, 0.8], [0.05, 0.95, 0.0]])
    0.5
    """

    def __init__(self, name: str = "categorical_accuracy", dtype: Any = None) -> None:
        super().__init__(name, dtype)

    def _matches(self, y_true: np.ndarray, y_pred: np.ndarray) -> np.ndarray:
        return y_pred.argmax(axis=-1) == _one_hot(self.name, y_true, y_pred)


@registry.register("metric")
class BinaryAccuracy(_Matches):
    """How often ``y_pred > threshold`` equals ``y_true``, entry by entry.

    Parameters
    ----------
    name, dtype
        See :class:`Metric`.
    threshold : float
        In (0, 1).

    Examples
    --------
    >>> BinaryAccuracy()([1, 1, 0, 0], [[0.98], [1.0], [0.0], [0.6]])
    0.75
    """

    def __init__(
        self, name: str = "binary_accuracy", dtype: Any = None, threshold: float = 0.5
    ) -> None:
        super().__init__(name, dtype)
        self.threshold = arguments.number(
            type(self).__name__, "threshold", threshold, 0, 1, exclude=[0, 1]
        )

    def _matches(self, y_true: np.ndarray, y_pred: np.ndarray) -> np.ndarray:
        y_true, y_pred = align(self.name, y_true, y_pred)
        return (y_pred > self.threshold) == y_true

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "threshold": self.threshold}


class _TopK(_Matches):
    def __init__(self, k: int, name: str, dtype: Any) -> None:
        super().__init__(name, dtype)
        self.k = int(arguments.number(type(self).__name__, "k", k, 1))

    def _in_top_k(self, labels: np.ndarray, y_pred: np.ndarray) -> np.ndarray:
        """Return whether fewer than k scores exceed the label's; ties count as within."""
        classes = y_pred.shape[-1]
        labels = labels.astype(np.int64, copy=False)
        if labels.size and not (labels.min() >= 0 and labels.max() < classes):
            raise IndexError(f"{self.name}: y_true expects class numbers in [0, {classes})")
        score = np.take_along_axis(y_pred, labels[..., None], axis=-1)
        # "Not less or equal" rather than "greater": a NaN score is in nobody's top k.
        return np.count_nonzero(~(y_pred <= score), axis=-1) < self.k

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "k": self.k}


@registry.register("metric")
class TopKCategoricalAccuracy(_TopK):
    """How often the class of one-hot ``y_true`` is among the ``k`` largest of ``y_pred``.

    Examples
    --------
    >>> TopKCategoricalAccuracy(k=2)([[0, 0, 1], [0, 1, 0]], [[0.3, 0.9, 0.8], [0.5, 0.1, 0.4]])
    0.5
    """

    def __init__(
        self, k: int = 5, name: str = "top_k_categorical_accuracy", dtype: Any = None
    ) -> None:
        super().__init__(k, name, dtype)

    def _matches(self, y_true: np.ndarray, y_pred: np.ndarray) -> np.ndarray:
        return self._in_top_k(_one_hot(self.name, y_true, y_pred), y_pred)


@registry.register("metric")
class SparseTopKCategoricalAccuracy(_TopK):
    """How often the class number ``y_true`` is among the ``k`` largest of ``y_pred``.

    ``from_sorted_ids=True`` is not supported.

    Examples
    --------
    >>> SparseTopKCategoricalAccuracy(k=2)([2, 1], [[0.3, 0.9, 0.8], [0.5, 0.1, 0.4]])
    0.5
    """

    def __init__(
        self,
        k: int = 5,
        name: str = "sparse_top_k_categorical_accuracy",
        dtype: Any = None,
        from_sorted_ids: bool = False,
    ) -> None:
        super().__init__(k, name, dtype)
        if from_sorted_ids:
            raise ValueError(
                "SparseTopKCategoricalAccuracy: from_sorted_ids is not supported; give the scores "
                "of all classes"
            )

    def _matches(self, y_true: np.ndarray, y_pred: np.ndarray) -> np.ndarray:
        return self._in_top_k(_labels(self.name, y_true, y_pred), y_pred)


@registry.register("metric")
class FittingAccuracy(Metric):
    """The accuracy that fits the first batch: what the name ``"accuracy"`` stands for.

    As in Keras: binary for predictions whose last axis is 1, sparse for class numbers, categorical
    for one-hot rows.
    """

    direction = "up"
    leaves_out_masked = True

    def __init__(self, name: str = "accuracy", dtype: Any = None) -> None:
        self._chosen: Metric | None = None
        super().__init__(name, dtype)

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        if self._chosen is None:
            kind: type[Metric] = CategoricalAccuracy
            true, pred = np.shape(y_true), np.shape(y_pred)
            if pred[-1:] == (1,):
                kind = BinaryAccuracy
            elif len(true) < len(pred) or true[-1:] == (1,):
                kind = SparseCategoricalAccuracy
            self._chosen = kind(name=self.name)
        self._chosen.update_state(y_true, y_pred, sample_weight)

    def result(self) -> float:
        return self._chosen.result() if self._chosen is not None else 0.0

    def reset_state(self) -> None:
        if self._chosen is not None:
            self._chosen.reset_state()
