"""The loss interface: one loss a row, weighted and reduced to a number, and its gradient."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from lamella import arguments, masks

REDUCTIONS = ("sum_over_batch_size", "mean", "sum", "mean_with_sample_weight", "none", None)

# d_rows (...) -> d_y_pred (..., classes), both float32
Pullback = Callable[[np.ndarray], np.ndarray]


class Loss:
    """Base class of the losses.

    A loss of your own subclasses it and overrides ``rows_and_gradient(y_true, y_pred)``.

    Parameters
    ----------
    name : str, optional
        The class name in snake case by default.
    reduction : {"sum_over_batch_size", "mean", "sum", "mean_with_sample_weight", "none"} or None
        With r the rows' losses, w their weights (1 without ``sample_weight``) and n their number:
        ``sum(w r) / n`` for the first two, ``sum(w r)``, ``sum(w r) / sum(w)``, or the array
        ``w r`` for the last two.
    dtype : str, optional
        Only ``"float32"``.

    Raises
    ------
    ValueError
        If an argument is none of these.

    Examples
    --------
    >>> class Cubic(Loss):
    ...     def rows_and_gradient(self, y_true, y_pred):
    ...         error = y_pred - y_true
    ...         rows = (np.abs(error) ** 3).mean(axis=-1)
    ...         return rows, 3 * error * np.abs(error) / error.shape[-1]
    >>> value, gradient = Cubic().value_and_gradient([[0.0], [0.0]], [[1.0], [-2.0]])
    >>> value
    4.5
    >>> gradient
    array([[ 1.5],
           [-6. ]], dtype=float32)
    """

    #: Whether :meth:`value_and_gradient_from_logits` may replace a softmax and this loss after it.
    accepts_softmax_logits: bool = False

    def __init__(
        self,
        name: str | None = None,
        reduction: str | None = "sum_over_batch_size",
        dtype: Any = None,
    ) -> None:
        owner = type(self).__name__
        arguments.float32(owner, dtype)
        self.reduction = arguments.choice(owner, "reduction", reduction, REDUCTIONS)
        self.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", owner).lower() if name is None else name
        # Weights 1/n or 1 of an unweighted batch, by shape: a training run has two, the last
        # batch being smaller.
        self._equal_weights: dict[tuple[int, ...], np.ndarray] = {}

    def rows_and_gradient(
        self, y_true: np.ndarray, y_pred: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return one loss a row, and the gradient of each to its row of predictions.

        Parameters
        ----------
        y_true : array
            As the caller gave it.
        y_pred : float32 array (..., classes)

        Returns
        -------
        rows : array (...)
        gradient : array (..., classes)
            ``gradient[i]`` is the gradient of ``rows[i]`` to ``y_pred[i]``.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must override rows_and_gradient(self, y_true, y_pred) -> "
            "(one loss a row, its gradient in the shape of y_pred)"
        )

    def _rows(
        self, y_true: np.ndarray, y_pred: np.ndarray
    ) -> tuple[np.ndarray, Pullback, np.ndarray | None]:
        """Return the rows, their pullback, and which rows count (None for all)."""
        rows, gradient = self.rows_and_gradient(y_true, y_pred)
        rows = np.asarray(rows, np.float32)
        gradient = np.asarray(gradient, np.float32)
        if gradient.shape != y_pred.shape or rows.shape != y_pred.shape[: rows.ndim]:
            raise ValueError(
                f"{self.name}: rows_and_gradient must return one loss a row and a gradient in the "
                f"shape of y_pred, {y_pred.shape}, got shapes {rows.shape} and {gradient.shape}"
            )
        inner = (1,) * (y_pred.ndim - rows.ndim)
        return rows, lambda d_rows: gradient * d_rows.reshape(d_rows.shape + inner), None

    def _masked(self, rows: np.ndarray, counted: np.ndarray | None, mask: Any) -> np.ndarray | None:
        """Return which rows count, by the loss itself and by a mask of their leading axes."""
        if mask is None:
            return counted
        mask = np.asarray(mask)
        if mask.shape != rows.shape[: mask.ndim]:
            raise ValueError(
                f"{self.name}: the mask of y_pred has shape {mask.shape}, which is no leading axes "
                f"of the rows' {rows.shape}"
            )
        mask = masks.spread(mask, rows.shape)
        return mask if counted is None else counted & mask

    def _weights(
        self, shape: tuple[int, ...], sample_weight: Any, counted: np.ndarray | None
    ) -> np.ndarray:
        """Return c with loss = sum(rows * c): sample weights, mask and reduction in one array."""
        count = math.prod(shape)
        averaged = self.reduction in ("sum_over_batch_size", "mean", "mean_with_sample_weight")
        if sample_weight is None and counted is None:
            equal = self._equal_weights.get(shape)
            if equal is None:
                if len(self._equal_weights) >= 8:
                    self._equal_weights.clear()
                equal = np.full(shape, 1 / max(1, count) if averaged else 1, np.float32)
                self._equal_weights[shape] = equal
            return equal
        weights = np.ones(shape, np.float32)
        if sample_weight is not None:
            weights *= fit_weights(self.name, sample_weight, shape)
        if counted is not None:
            weights *= counted
        divisor = 1.0
        if self.reduction == "mean_with_sample_weight":
            divisor = float(weights.sum(dtype=np.float64))
        elif averaged:
            divisor = float(count if counted is None else np.count_nonzero(counted))
        # Keras' divide_no_nan: nothing that counts gives a loss of 0.
        return weights * np.float32(1 / divisor if divisor else 0)

    def _reduce(self, rows: np.ndarray, weights: np.ndarray) -> float:
        # Summed in float64: the value must not depend on how NumPy blocks the sum.
        return float(np.sum(rows * weights, dtype=np.float64))

    def call(self, y_true: Any, y_pred: Any) -> np.ndarray:
        """Return one loss a row, a float32 array of the shape of ``y_pred`` without its last."""
        return self._rows(np.asarray(y_true), np.asarray(y_pred, np.float32))[0]

    def __call__(
        self, y_true: Any, y_pred: Any, sample_weight: Any = None, mask: Any = None
    ) -> Any:
        """Return the loss: a float, or the array of weighted rows with reduction ``"none"``.

        Parameters
        ----------
        y_true : array_like
            What the loss's class says.
        y_pred : array_like (..., classes)
        sample_weight : array_like, optional
            One weight a row, or one for each entry of the leading axes, such as (N,) for rows
            (N, T).
        mask : bool array, optional
            Of the rows' leading axes: rows where it is False do not count, nor are they part of
            the number that a mean divides by.

        Raises
        ------
        ValueError
            If the shapes do not fit each other.
        """
        rows, _, counted = self._rows(np.asarray(y_true), np.asarray(y_pred, np.float32))
        weights = self._weights(rows.shape, sample_weight, self._masked(rows, counted, mask))
        if self.reduction in ("none", None):
            return rows * weights
        return self._reduce(rows, weights)

    def value_and_gradient(
        self, y_true: Any, y_pred: Any, sample_weight: Any = None, mask: Any = None
    ) -> tuple[float, np.ndarray]:
        """Return the loss and its gradient to ``y_pred``, float32 in the shape of ``y_pred``.

        Raises
        ------
        ValueError
            If the shapes do not fit each other, or the reduction is ``"none"``.
        """
        y_pred = np.asarray(y_pred, np.float32)
        rows, pullback, counted = self._rows(np.asarray(y_true), y_pred)
        return self._finish(rows, pullback, self._masked(rows, counted, mask), sample_weight)

    def value_and_gradient_from_logits(
        self, y_true: Any, logits: Any, sample_weight: Any = None, mask: Any = None
    ) -> tuple[float, np.ndarray]:
        """Return the loss of ``softmax(logits)``, and its gradient to ``logits``, stably.

        Raises
        ------
        ValueError
            If ``accepts_softmax_logits`` is False, and as :meth:`value_and_gradient`.
        """
        raise ValueError(f"{self.name} takes no logits in place of a softmax's output")

    def _finish(
        self,
        rows: np.ndarray,
        pullback: Pullback,
        counted: np.ndarray | None,
        sample_weight: Any,
    ) -> tuple[float, np.ndarray]:
        if self.reduction in ("none", None):
            raise ValueError(
                f"{self.name}: reduction {self.reduction!r} gives no single number to train on; "
                "use 'sum_over_batch_size' or 'sum'"
            )
        weights = self._weights(rows.shape, sample_weight, counted)
        return self._reduce(rows, weights), pullback(weights)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"name": self.name, "reduction": self.reduction}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Loss:
        """Build it from :meth:`get_config`'s result."""
        return cls(**config)


def fit_weights(owner: str, sample_weight: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Return ``sample_weight`` in a shape that broadcasts to ``shape``, leading axes first."""
    weights = np.asarray(sample_weight, np.float32)
    if weights.ndim == len(shape) + 1 and weights.shape[-1] == 1:
        weights = weights[..., 0]
    leading = shape[: weights.ndim]
    if weights.ndim > len(shape) or any(
        size not in (1, full) for size, full in zip(weights.shape, leading, strict=True)
    ):
        raise ValueError(
            f"{owner}: sample_weight expects shape {shape} or its leading axes, "
            f"got shape {np.shape(sample_weight)}"
        )
    return weights.reshape(weights.shape + (1,) * (len(shape) - weights.ndim))


def align(owner: str, y_true: np.ndarray, y_pred: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give targets and predictions one shape where they differ by a last axis of size 1 only.

    Returns
    -------
    y_true, y_pred : float32 arrays of one shape

    Raises
    ------
    ValueError
        If the shapes differ otherwise: nothing is broadcast.
    """
    try:
        y_true = y_true.astype(np.float32, copy=False)
    except (TypeError, ValueError):
        raise ValueError(f"{owner}: y_true expects numbers, got dtype {y_true.dtype}") from None
    true, pred = y_true.shape, y_pred.shape
    if true == pred:
        return y_true, y_pred
    if (*true, 1) == pred:
        return (y_true[:, None], y_pred) if len(true) == 1 else (y_true, y_pred[..., 0])
    if true == (*pred, 1):
        return (y_true, y_pred[:, None]) if len(pred) == 1 else (y_true[..., 0], y_pred)
    hint = ""
    if true == pred[:-1]:
        hint = "; for class numbers use sparse_categorical_crossentropy"
    raise ValueError(f"{owner}: y_true expects the shape of y_pred, {pred}, got shape {true}{hint}")
