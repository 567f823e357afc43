"""Stochastic gradient descent, with momentum and Nesterov's momentum."""

from __future__ import annotations

from typing import Any

import numpy as np

from lamella import arguments, ops, registry
from lamella.optimizers.base import Optimizer
from lamella.schedules import LearningRateSchedule


@registry.register("optimizer")
class SGD(Optimizer):
    """Stochastic gradient descent.

    With v the velocity, g the gradient and w the weight::

        v = momentum * v - learning_rate * g
        w = w + v                                              without nesterov
        w = w + momentum * v - learning_rate * g               with nesterov

    Parameters
    ----------
    learning_rate : float or LearningRateSchedule
    momentum : float
        In [0, 1]; 0 keeps no velocity.
    nesterov : bool
        Use Nesterov's momentum (Sutskever et al. 2013).
    weight_decay, clipnorm, clipvalue, global_clipnorm, name, **unsupported
        See :class:`Optimizer`.

    Examples
    --------
    >>> w, g = np.float32([1, 2]), np.float32([1, -1])
    >>> SGD(learning_rate=0.5).apply(w, g, [(0, 2, True)])
    >>> w
    array([0.5, 2.5], dtype=float32)
    """

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        name: str | None = None,
        **unsupported: Any,
    ) -> None:
        super().__init__(
            learning_rate, weight_decay, clipnorm, clipvalue, global_clipnorm, name, **unsupported
        )
        self.momentum = arguments.number(type(self).__name__, "momentum", momentum, 0, 1)
        self.nesterov = bool(nesterov)
        self.slot_names = ("momentum",) if self.momentum else ()

    def _update(
        self,
        param: np.ndarray,
        grad: np.ndarray,
        slots: tuple[np.ndarray, ...],
        learning_rate: float,
        weight_decay: float,
    ) -> None:
        ops.sgd_(
            param,
            grad,
            slots[0] if slots else None,
            learning_rate=learning_rate,
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=weight_decay,
        )

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "momentum": self.momentum, "nesterov": self.nesterov}
