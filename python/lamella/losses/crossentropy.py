"""The cross-entropies, on the kernels of ``lamella.ops``."""

from __future__ import annotations

from typing import Any

import numpy as np

from lamella import arguments, ops, registry
from lamella.losses.base import Loss, Pullback, align

# Above this not every integer is a float64, so a float label cannot be told to hold one.
_EXACT = 2.0**53


def _check_axis(owner: str, axis: Any) -> None:
    if axis != -1 or isinstance(axis, bool):
        raise ValueError(f"{owner}: axis expects -1 (the classes come last), got {axis!r}")


def integer_labels(owner: str, y_true: np.ndarray, y_pred: np.ndarray) -> np.ndarray:
    """Return class numbers as int32 or int64 of the shape of ``y_pred`` without its last axis.

    Parameters
    ----------
    y_true : array (...) or (..., 1)
        Any integer dtype, or floats that hold integers.
    y_pred : array (..., classes)

    Raises
    ------
    ValueError
        If the shape or the values are others.
    """
    rows = y_pred.shape[:-1]
    labels = y_true
    if labels.shape == (*rows, 1):
        labels = labels.reshape(rows)
    if labels.shape != rows:
        hint = ""
        if y_true.shape == y_pred.shape:
            hint = "; for one-hot targets use categorical_crossentropy, or argmax them"
        raise ValueError(
            f"{owner}: y_true expects class numbers of shape {rows} for predictions of shape "
            f"{y_pred.shape}, got shape {y_true.shape}{hint}"
        )
    if labels.dtype in (np.int64, np.int32):
        return labels
    if labels.dtype.kind == "f":
        whole = (np.trunc(labels) == labels) & (np.abs(labels) <= _EXACT)
        if not whole.all():
            raise ValueError(
                f"{owner}: y_true expects class numbers, got {labels[~whole].flat[0]!r}"
            )
    elif labels.dtype.kind not in "iub":
        raise ValueError(f"{owner}: y_true expects class numbers, got dtype {labels.dtype}")
    return labels.astype(np.int64)


def _by_rows(
    op: Any, y_pred: np.ndarray, targets: np.ndarray, **options: Any
) -> tuple[np.ndarray, Pullback]:
    """Apply a cross-entropy op, which takes two axes, to predictions (..., classes)."""
    rows, pullback = op.vjp(y_pred.reshape(-1, y_pred.shape[-1]), targets, **options)

    def pull(d_rows: np.ndarray) -> np.ndarray:
        d_pred, _ = pullback(d_rows.reshape(-1))
        return d_pred.reshape(y_pred.shape)

    return rows.reshape(y_pred.shape[:-1]), pull


@registry.register("loss")
class SparseCategoricalCrossentropy(Loss):
    """``-log p[label]`` for class numbers.

    ``y_true`` (...) or (..., 1) holds class numbers in [0, classes): integers, or floats that hold
    integers. ``y_pred`` (..., classes) holds probabilities, which are divided by their sum and
    clipped to [1e-7, 1 - 1e-7] as in Keras; or logits.

    Parameters
    ----------
    from_logits : bool
        Whether ``y_pred`` holds logits.
    ignore_class : int, optional
        Rows of this class give no loss and do not count in the mean.
    reduction, name, dtype
        See :class:`Loss`.
    axis : int
        Only -1.

    Raises
    ------
    IndexError
        When called with a label outside [0, classes).

    Examples
    --------
    >>> loss = SparseCategoricalCrossentropy()
    >>> round(loss([1, 2], [[0.05, 0.95, 0.0], [0.1, 0.8, 0.1]]), 3)
    1.177
    """

    def __init__(
        self,
        from_logits: bool = False,
        ignore_class: int | None = None,
        reduction: str | None = "sum_over_batch_size",
        axis: int = -1,
        name: str | None = "sparse_categorical_crossentropy",
        dtype: Any = None,
    ) -> None:
        super().__init__(name, reduction, dtype)
        owner = type(self).__name__
        _check_axis(owner, axis)
        if ignore_class is not None:
            if arguments.number(owner, "ignore_class", ignore_class) % 1:
                raise ValueError(f"{owner}: ignore_class expects an integer, got {ignore_class!r}")
            ignore_class = int(ignore_class)
        self.from_logits = bool(from_logits)
        self.ignore_class = ignore_class
        self.accepts_softmax_logits = not self.from_logits

    def _rows(
        self, y_true: np.ndarray, y_pred: np.ndarray, from_logits: bool | None = None
    ) -> tuple[np.ndarray, Pullback, np.ndarray | None]:
        labels = integer_labels(self.name, y_true, y_pred)
        rows, pullback = _by_rows(
            ops.sparse_categorical_crossentropy,
            y_pred,
            labels.reshape(-1),
            from_logits=self.from_logits if from_logits is None else from_logits,
            ignore_index=self.ignore_class,
        )
        return rows, pullback, None if self.ignore_class is None else labels != self.ignore_class

    def value_and_gradient_from_logits(
        self, y_true: Any, logits: Any, sample_weight: Any = None, mask: Any = None
    ) -> tuple[float, np.ndarray]:
        if not self.accepts_softmax_logits:
            return super().value_and_gradient_from_logits(y_true, logits, sample_weight, mask)
        logits = np.asarray(logits, np.float32)
        rows, pullback, counted = self._rows(np.asarray(y_true), logits, True)
        return self._finish(rows, pullback, self._masked(rows, counted, mask), sample_weight)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "from_logits": self.from_logits,
            "ignore_class": self.ignore_class,
        }


@registry.register("loss")
class CategoricalCrossentropy(Loss):
    """``-sum(y_true * log p)`` over the classes, for one-hot or soft targets.

    ``y_true`` and ``y_pred`` are (..., classes); ``y_pred`` holds probabilities, which are divided
    by their sum and clipped to [1e-7, 1 - 1e-7] as in Keras; or logits.

    Parameters
    ----------
    from_logits : bool
        Whether ``y_pred`` holds logits.
    label_smoothing : float
        In [0, 1]: targets become ``(1 - s) * y_true + s / classes``.
    axis : int
        Only -1.
    reduction, name, dtype
        See :class:`Loss`.

    Examples
    --------
    >>> loss = CategoricalCrossentropy()
    >>> round(loss([[0, 1, 0], [0, 0, 1]], [[0.05, 0.95, 0.0], [0.1, 0.8, 0.1]]), 3)
    1.177
    """

    def __init__(
        self,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        axis: int = -1,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "categorical_crossentropy",
        dtype: Any = None,
    ) -> None:
        super().__init__(name, reduction, dtype)
        owner = type(self).__name__
        _check_axis(owner, axis)
        self.from_logits = bool(from_logits)
        self.label_smoothing = arguments.number(owner, "label_smoothing", label_smoothing, 0, 1)
        self.accepts_softmax_logits = not self.from_logits

    def _rows(
        self, y_true: np.ndarray, y_pred: np.ndarray, from_logits: bool | None = None
    ) -> tuple[np.ndarray, Pullback, np.ndarray | None]:
        shape = y_pred.shape
        y_true, y_pred = align(self.name, y_true, y_pred)
        rows, pullback = _by_rows(
            ops.categorical_crossentropy,
            y_pred,
            y_true.reshape(-1, y_true.shape[-1]),
            from_logits=self.from_logits if from_logits is None else from_logits,
            label_smoothing=self.label_smoothing,
        )
        return rows, lambda d_rows: pullback(d_rows).reshape(shape), None

    def value_and_gradient_from_logits(
        self, y_true: Any, logits: Any, sample_weight: Any = None, mask: Any = None
    ) -> tuple[float, np.ndarray]:
        if not self.accepts_softmax_logits:
            return super().value_and_gradient_from_logits(y_true, logits, sample_weight, mask)
        logits = np.asarray(logits, np.float32)
        rows, pullback, counted = self._rows(np.asarray(y_true), logits, True)
        return self._finish(rows, pullback, self._masked(rows, counted, mask), sample_weight)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "from_logits": self.from_logits,
            "label_smoothing": self.label_smoothing,
        }


@registry.register("loss", "bce")
class BinaryCrossentropy(Loss):
    """The mean over the last axis of ``-(y log p + (1 - y) log(1 - p))``.

    ``y_true`` and ``y_pred`` have one shape, up to a last axis of size 1; ``y_pred`` holds
    probabilities, clipped to [1e-7, 1 - 1e-7] as in Keras, or logits.

    Parameters
    ----------
    from_logits : bool
        Whether ``y_pred`` holds logits.
    label_smoothing : float
        In [0, 1]: targets become ``(1 - s) * y_true + s / 2``.
    axis : int
        Only -1.
    reduction, name, dtype
        See :class:`Loss`.

    Examples
    --------
    >>> round(BinaryCrossentropy()([0, 1], [[0.1], [0.8]]), 3)
    0.164
    """

    def __init__(
        self,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        axis: int = -1,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "binary_crossentropy",
        dtype: Any = None,
    ) -> None:
        super().__init__(name, reduction, dtype)
        owner = type(self).__name__
        _check_axis(owner, axis)
        self.from_logits = bool(from_logits)
        self.label_smoothing = arguments.number(owner, "label_smoothing", label_smoothing, 0, 1)

    def _rows(
        self, y_true: np.ndarray, y_pred: np.ndarray
    ) -> tuple[np.ndarray, Pullback, np.ndarray | None]:
        shape = y_pred.shape
        y_true, y_pred = align(self.name, y_true, y_pred)
        rows, pullback = _by_rows(
            ops.binary_crossentropy,
            y_pred,
            y_true.reshape(-1, y_true.shape[-1]),
            from_logits=self.from_logits,
            label_smoothing=self.label_smoothing,
        )
        return rows, lambda d_rows: pullback(d_rows).reshape(shape), None

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "from_logits": self.from_logits,
            "label_smoothing": self.label_smoothing,
        }
