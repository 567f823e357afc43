"""RMSprop: gradients over the root of their running mean square."""

from __future__ import annotations

from typing import Any

import numpy as np

from lamella import arguments, ops, registry
from lamella.optimizers.base import Optimizer
from lamella.schedules import LearningRateSchedule


@registry.register("optimizer")
class RMSprop(Optimizer):
    """RMSprop (Hinton 2012).

    With s the running mean square, a the running mean, g the gradient and w the weight::

        s = rho * s + (1 - rho) * g**2
        a = rho * a + (1 - rho) * g                            if centered, else a = 0
        d = learning_rate * g / sqrt(s - a**2 + epsilon)
        m = momentum * m + d;  w = w - m                       with momentum
        w = w - d                                              without

    Parameters
    ----------
    learning_rate : float or LearningRateSchedule
    rho : float
        In [0, 1).
    momentum : float
        In [0, 1]; 0 keeps none.
    epsilon : float
        Positive.
    centered : bool
        Divide by the estimated variance rather than the mean square.
    weight_decay, clipnorm, clipvalue, global_clipnorm, name, **unsupported
        See :class:`Optimizer`.

    Examples
    --------
    >>> w, g = np.float32([1, 2]), np.float32([1, -1])
    >>> RMSprop(learning_rate=0.1).apply(w, g, [(0, 2, True)])
    >>> w.round(3)
    array([0.684, 2.316], dtype=float32)
    """

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 0.001,
        rho: float = 0.9,
        momentum: float = 0.0,
        epsilon: float = 1e-7,
        centered: bool = False,
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
        owner = type(self).__name__
        self.rho = arguments.number(owner, "rho", rho, 0, 1, exclude=[1])
        self.momentum = arguments.number(owner, "momentum", momentum, 0, 1)
        self.epsilon = arguments.number(owner, "epsilon", epsilon, 0, exclude=[0])
        self.centered = bool(centered)
        slots = {
            "velocity": True,
            "average_gradient": self.centered,
            "momentum": self.momentum > 0,
        }
        self.slot_names = tuple(name for name, used in slots.items() if used)

    def _update(
        self,
        param: np.ndarray,
        grad: np.ndarray,
        slots: tuple[np.ndarray, ...],
        learning_rate: float,
        weight_decay: float,
    ) -> None:
        state = dict(zip(self.slot_names, slots, strict=True))
        ops.rmsprop_(
            param,
            grad,
            state["velocity"],
            state.get("average_gradient"),
            state.get("momentum"),
            learning_rate=learning_rate,
            rho=self.rho,
            momentum=self.momentum,
            epsilon=self.epsilon,
            weight_decay=weight_decay,
        )

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "rho": self.rho,
            "momentum": self.momentum,
            "epsilon": self.epsilon,
            "centered": self.centered,
        }
