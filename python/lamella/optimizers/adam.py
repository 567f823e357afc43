"""Adam and AdamW."""

from __future__ import annotations

from typing import Any

import numpy as np

from lamella import arguments, ops, registry
from lamella.optimizers.base import Optimizer
from lamella.schedules import LearningRateSchedule


@registry.register("optimizer")
class Adam(Optimizer):
    """Adam (Kingma and Ba 2015), in Keras' form.

    With m and v the running means of the gradient g and of its square, t the step from 1::

        m = m + (1 - beta_1) * (g - m)
        v = v + (1 - beta_2) * (g**2 - v)
        alpha = learning_rate * sqrt(1 - beta_2**t) / (1 - beta_1**t)
        w = w - alpha * m / (sqrt(v) + epsilon)

    Parameters
    ----------
    learning_rate : float or LearningRateSchedule
    beta_1, beta_2 : float
        In [0, 1).
    epsilon : float
        Positive; the "epsilon hat" of the paper.
    amsgrad : bool
        Divide by the largest v so far (Reddi et al. 2018).
    weight_decay, clipnorm, clipvalue, global_clipnorm, name, **unsupported
        See :class:`Optimizer`.

    Examples
    --------
    >>> w, g = np.float32([1, 2]), np.float32([1, -1])
    >>> Adam(learning_rate=0.1).apply(w, g, [(0, 2, True)])
    >>> w.round(3)
    array([0.9, 2.1], dtype=float32)
    """

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
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
        self.beta_1 = arguments.number(owner, "beta_1", beta_1, 0, 1, exclude=[1])
        self.beta_2 = arguments.number(owner, "beta_2", beta_2, 0, 1, exclude=[1])
        self.epsilon = arguments.number(owner, "epsilon", epsilon, 0, exclude=[0])
        self.amsgrad = bool(amsgrad)
        self.slot_names = ("momentum", "velocity") + ("velocity_hat",) * self.amsgrad

    def _update(
        self,
        param: np.ndarray,
        grad: np.ndarray,
        slots: tuple[np.ndarray, ...],
        learning_rate: float,
        weight_decay: float,
    ) -> None:
        ops.adam_(
            param,
            grad,
            slots[0],
            slots[1],
            slots[2] if self.amsgrad else None,
            step=self._iterations + 1,
            learning_rate=learning_rate,
            beta_1=self.beta_1,
            beta_2=self.beta_2,
            epsilon=self.epsilon,
            weight_decay=weight_decay,
        )

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
            "amsgrad": self.amsgrad,
        }


@registry.register("optimizer")
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019).

    Parameters
    ----------
    learning_rate : float or LearningRateSchedule
    weight_decay : float
        Each step a weight first loses ``weight_decay * learning_rate`` of itself.
    beta_1, beta_2, epsilon, amsgrad
        See :class:`Adam`.
    clipnorm, clipvalue, global_clipnorm, name, **unsupported
        See :class:`Optimizer`.

    Examples
    --------
    >>> w, g = np.float32([1, 2]), np.float32([1, -1])
    >>> AdamW(learning_rate=0.1, weight_decay=0.5).apply(w, g, [(0, 2, True)])
    >>> w.round(3)
    array([0.85, 2.  ], dtype=float32)
    """

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 0.001,
        weight_decay: float = 0.004,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        name: str | None = None,
        **unsupported: Any,
    ) -> None:
        if weight_decay is None:
            raise ValueError("AdamW: weight_decay expects a number >= 0, got None")
        super().__init__(
            learning_rate,
            beta_1,
            beta_2,
            epsilon,
            amsgrad,
            weight_decay,
            clipnorm,
            clipvalue,
            global_clipnorm,
            name,
            **unsupported,
        )
