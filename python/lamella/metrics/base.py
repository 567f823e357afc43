"""The metric interface, and the weighted mean that most metrics are."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from lamella import arguments, registry
from lamella.losses.base import fit_weights


class Metric:
    """Base class of the metrics.

    A metric of your own overrides ``update_state``, ``result`` and ``reset_state``.

    Parameters
    ----------
    name : str, optional
        Its name in logs; the class name in snake case by default.
    dtype : str, optional
        Only ``"float32"``; sums are kept in float64.

    Examples
    --------
    >>> class Largest(Metric):
    ...     def update_state(self, y_true, y_pred, sample_weight=None):
    ...         self.value = max(self.value, float(np.max(y_pred)))
    ...     def result(self):
    ...         return self.value
    ...     def reset_state(self):
    ...         self.value = float("-inf")
    >>> metric = Largest()
    >>> metric.update_state([0, 0], [3.0, 1.0])
    >>> metric.result()
    3.0
    """

    #: Which way is better, "up" or "down", for callbacks that look for the best epoch.
    direction: str | None = None
    #: Whether masked steps are left out, by a weight of 0; as in Keras not in every metric.
    leaves_out_masked = False

    def __init__(self, name: str | None = None, dtype: Any = None) -> None:
        owner = type(self).__name__
        arguments.float32(owner, dtype)
        self.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", owner).lower() if name is None else name
        self.reset_state()

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Take in a batch.

        Parameters
        ----------
        y_true : array
            What the metric's class says.
        y_pred : array (..., classes)
        sample_weight : array, optional
            One weight a row.
        """
        raise NotImplementedError(f"{type(self).__name__} must override update_state")

    def result(self) -> float:
        """Return the metric of what came since the last reset."""
        raise NotImplementedError(f"{type(self).__name__} must override result")

    def reset_state(self) -> None:
        """Forget what came."""
        raise NotImplementedError(f"{type(self).__name__} must override reset_state")

    def __call__(self, *args: Any, **kwargs: Any) -> float:
        """Take in a batch and return the result so far."""
        self.update_state(*args, **kwargs)
        return self.result()

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Metric:
        """Build it from :meth:`get_config`'s result."""
        return cls(**config)


class MeanOfRows(Metric):
    """A metric that is the weighted mean over samples of some value.

    Subclasses turn a batch into one value a sample, or more, and hand them to ``_add``.
    """

    leaves_out_masked = True

    def reset_state(self) -> None:
        self.total = 0.0
        self.count = 0.0

    def result(self) -> float:
        return self.total / self.count if self.count else 0.0

    def _add(self, values: np.ndarray, sample_weight: Any = None) -> None:
        """Take in values (N, ...): each sample counts its mean, once or by its weight."""
        if values.ndim == 0:
            values = values.reshape(1)
        if sample_weight is None:
            inner = values.size // len(values) if len(values) else 1
            # Booleans, a comparison's result, are counted: faster than summing them.
            if values.dtype == np.bool_:
                total = float(np.count_nonzero(values))
            else:
                total = float(np.sum(values, dtype=np.float64))
            self.total += total / max(1, inner)
            self.count += len(values)
            return
        weights = np.broadcast_to(fit_weights(self.name, sample_weight, values.shape), values.shape)
        inner_axes = tuple(range(1, values.ndim))
        self.total += float(np.sum((values * weights).mean(axis=inner_axes), dtype=np.float64))
        self.count += float(np.sum(weights.mean(axis=inner_axes), dtype=np.float64))


@registry.register("metric")
class Mean(MeanOfRows):
    """The weighted mean of the numbers it is given.

    Examples
    --------
    >>> mean = Mean()
    >>> mean.update_state([1, 3, 5, 7])
    >>> mean.result()
    4.0
    >>> mean.update_state(10.0, sample_weight=4)
    >>> mean.result()
    7.0
    """

    def __init__(self, name: str = "mean", dtype: Any = None) -> None:
        super().__init__(name, dtype)

    def update_state(self, values: Any, sample_weight: Any = None) -> None:  # type: ignore[override]
        """Take in a number or an array of them, with one weight or one each."""
        if type(values) is float and (sample_weight is None or np.ndim(sample_weight) == 0):
            weight = 1.0 if sample_weight is None else float(sample_weight)
            self.total += values * weight
            self.count += weight
            return
        self._add(np.asarray(values, np.float32), sample_weight)


class MeanMetricWrapper(MeanOfRows):
    """The mean of a function of your own.

    Parameters
    ----------
    fn : callable
        ``fn(y_true, y_pred, **kwargs)`` returns one value a row, or more; its arguments are
        arrays.
    name : str, optional
        The function's name by default.
    dtype : str, optional
        Only ``"float32"``.
    **kwargs
        Passed on to ``fn``.

    Examples
    --------
    >>> def largest_error(y_true, y_pred):
    ...     return np.abs(y_pred - y_true).max(axis=-1)
    >>> MeanMetricWrapper(largest_error)([[0, 0], [0, 0]], [[1, 2], [0, 4]])
    3.0
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        name: str | None = None,
        dtype: Any = None,
        **kwargs: Any,
    ) -> None:
        if not callable(fn):
            raise ValueError(f"MeanMetricWrapper: fn expects a function, got {fn!r}")
        super().__init__(
            getattr(fn, "__name__", type(fn).__name__) if name is None else name, dtype
        )
        self._fn = fn
        self._kwargs = kwargs

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        values = self._fn(np.asarray(y_true), np.asarray(y_pred), **self._kwargs)
        self._add(np.asarray(values), sample_weight)

    def get_config(self) -> dict[str, Any]:
        raise TypeError(
            f"metric {self.name!r} wraps a plain function and has no config; subclass "
            "lamella.metrics.Metric to save it with a model"
        )
