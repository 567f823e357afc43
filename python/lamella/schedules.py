"""Learning rates that change with the training step: Keras 3's schedules.

A schedule is called with the number of steps already taken and returns the learning rate of the
next one. An optimizer takes a schedule in place of a number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lamella import arguments, registry

__all__ = [
    "CosineDecay",
    "CosineDecayRestarts",
    "ExponentialDecay",
    "InverseTimeDecay",
    "LearningRateSchedule",
    "PiecewiseConstantDecay",
    "PolynomialDecay",
    "deserialize",
    "serialize",
]


class LearningRateSchedule:
    """Base class; a schedule of your own overrides ``__call__`` and ``get_config``.

    Examples
    --------
    >>> class Halving(LearningRateSchedule):
    ...     def __call__(self, step):
    ...         return 0.5**step
    >>> Halving()(3)
    0.125
    """

    def __call__(self, step: int) -> float:
        """Return the learning rate after ``step`` steps (0 for the first)."""
        raise NotImplementedError(f"{type(self).__name__} must override __call__(self, step)")

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        raise NotImplementedError(f"{type(self).__name__} must override get_config() to be saved")

    def _number(self, name: str, value: Any, *span: float, exclude: Sequence[float] = ()) -> float:
        return arguments.number(type(self).__name__, name, value, *span, exclude=exclude)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> LearningRateSchedule:
        """Build it from :meth:`get_config`'s result."""
        return cls(**config)


@registry.register("schedule")
class ExponentialDecay(LearningRateSchedule):
    """``initial_learning_rate * decay_rate ** (step / decay_steps)``.

    Parameters
    ----------
    initial_learning_rate, decay_steps, decay_rate : float
        See the equation; ``decay_steps`` is positive.
    staircase : bool
        Round ``step / decay_steps`` down, so that the rate falls in steps.
    name : str
        Kept for the config only.

    Examples
    --------
    >>> ExponentialDecay(0.1, decay_steps=10, decay_rate=0.5)(20)
    0.025
    """

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: float,
        decay_rate: float,
        staircase: bool = False,
        name: str = "ExponentialDecay",
    ) -> None:
        self.initial_learning_rate = self._number("initial_learning_rate", initial_learning_rate)
        self.decay_steps = self._number("decay_steps", decay_steps, 0, exclude=[0])
        self.decay_rate = self._number("decay_rate", decay_rate)
        self.staircase = bool(staircase)
        self.name = name

    def __call__(self, step: int) -> float:
        periods = step / self.decay_steps
        periods = math.floor(periods) if self.staircase else periods
        return self.initial_learning_rate * self.decay_rate**periods

    def get_config(self) -> dict[str, Any]:
        return {
            "initial_learning_rate": self.initial_learning_rate,
            "decay_steps": self.decay_steps,
            "decay_rate": self.decay_rate,
            "staircase": self.staircase,
            "name": self.name,
        }


@registry.register("schedule")
class InverseTimeDecay(ExponentialDecay):
    """``initial_learning_rate / (1 + decay_rate * step / decay_steps)``.

    Parameters
    ----------
    initial_learning_rate, decay_steps, decay_rate : float
        See the equation; ``decay_steps`` is positive.
    staircase : bool
        Round ``step / decay_steps`` down.
    name : str
        Kept for the config only.

    Examples
    --------
    >>> InverseTimeDecay(0.1, decay_steps=10, decay_rate=1.0)(10)
    0.05
    """

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: float,
        decay_rate: float,
        staircase: bool = False,
        name: str = "InverseTimeDecay",
    ) -> None:
        super().__init__(initial_learning_rate, decay_steps, decay_rate, staircase, name)

    def __call__(self, step: int) -> float:
        periods = step / self.decay_steps
        periods = math.floor(periods) if self.staircase else periods
        return self.initial_learning_rate / (1 + self.decay_rate * periods)


@registry.register("schedule")
class PiecewiseConstantDecay(LearningRateSchedule):
    """``values[0]`` up to and including step ``boundaries[0]``, then ``values[1]``, and so on.

    Parameters
    ----------
    boundaries : sequence of n numbers
        Strictly increasing.
    values : sequence of n + 1 numbers
        The learning rates.
    name : str
        Kept for the config only.

    Examples
    --------
    >>> rate = PiecewiseConstantDecay([100, 200], [1.0, 0.5, 0.1])
    >>> rate(100), rate(101), rate(1000)
    (1.0, 0.5, 0.1)
    """

    def __init__(
        self,
        boundaries: Sequence[float],
        values: Sequence[float],
        name: str = "PiecewiseConstant",
    ) -> None:
        self.boundaries = [self._number("boundaries", b) for b in boundaries]
        self.values = [self._number("values", v) for v in values]
        self.name = name
        if len(self.values) != len(self.boundaries) + 1:
            raise ValueError(
                "PiecewiseConstantDecay: values expects one entry more than boundaries, "
                f"got {len(self.values)} values, {len(self.boundaries)} boundaries"
            )
        if any(a >= b for a, b in zip(self.boundaries, self.boundaries[1:], strict=False)):
            raise ValueError(
                "PiecewiseConstantDecay: boundaries expects strictly increasing numbers, "
                f"got {self.boundaries}"
            )

    def __call__(self, step: int) -> float:
        return self.values[sum(step > boundary for boundary in self.boundaries)]

    def get_config(self) -> dict[str, Any]:
        return {"boundaries": self.boundaries, "values": self.values, "name": self.name}


@registry.register("schedule")
class PolynomialDecay(LearningRateSchedule):
    """``(initial - end) * (1 - step / decay_steps) ** power + end``, then ``end`` for ever.

    Parameters
    ----------
    initial_learning_rate, decay_steps, end_learning_rate, power : float
        See the equation; ``decay_steps`` is positive.
    cycle : bool
        Instead of staying at ``end``, stretch ``decay_steps`` to its next multiple at or above
        ``step``.
    name : str
        Kept for the config only.

    Examples
    --------
    >>> PolynomialDecay(0.1, decay_steps=10, end_learning_rate=0.0)(5)
    0.05
    """

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: float,
        end_learning_rate: float = 0.0001,
        power: float = 1.0,
        cycle: bool = False,
        name: str = "PolynomialDecay",
    ) -> None:
        self.initial_learning_rate = self._number("initial_learning_rate", initial_learning_rate)
        self.decay_steps = self._number("decay_steps", decay_steps, 0, exclude=[0])
        self.end_learning_rate = self._number("end_learning_rate", end_learning_rate)
        self.power = self._number("power", power)
        self.cycle = bool(cycle)
        self.name = name

    def __call__(self, step: int) -> float:
        span = self.decay_steps
        if self.cycle:
            span *= max(1, math.ceil(step / span))
        left = 1 - min(step, span) / span
        fall = self.initial_learning_rate - self.end_learning_rate
        return fall * left**self.power + self.end_learning_rate

    def get_config(self) -> dict[str, Any]:
        return {
            "initial_learning_rate": self.initial_learning_rate,
            "decay_steps": self.decay_steps,
            "end_learning_rate": self.end_learning_rate,
            "power": self.power,
            "cycle": self.cycle,
            "name": self.name,
        }


@registry.register("schedule")
class CosineDecay(LearningRateSchedule):
    """A linear warm-up, then half a cosine down (Loshchilov and Hutter 2017).

    With p the fraction of ``decay_steps`` done after the warm-up, and ``top`` the warm-up's target
    (or the initial rate without one): ``top * ((1 - alpha) * (1 + cos(pi p)) / 2 + alpha)``.

    Parameters
    ----------
    initial_learning_rate : float
        Where the warm-up starts; without a ``warmup_target``, where the decay starts.
    decay_steps : float
        The length of the decay, positive.
    alpha : float
        The last rate, as a fraction of the top one.
    name : str
        Kept for the config only.
    warmup_target : float, optional
        The rate at the end of the warm-up. ``None``: no warm-up.
    warmup_steps : int
        The length of the warm-up.

    Examples
    --------
    >>> rate = CosineDecay(0.0, decay_steps=100, warmup_target=0.1, warmup_steps=10)
    >>> rate(5), rate(10), rate(60), rate(110)
    (0.05, 0.1, 0.05, 0.0)
    """

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: float,
        alpha: float = 0.0,
        name: str = "CosineDecay",
        warmup_target: float | None = None,
        warmup_steps: int = 0,
    ) -> None:
        self.initial_learning_rate = self._number("initial_learning_rate", initial_learning_rate)
        self.decay_steps = self._number("decay_steps", decay_steps, 0, exclude=[0])
        self.alpha = self._number("alpha", alpha)
        self.name = name
        self.warmup_target = warmup_target
        if warmup_target is not None:
            self.warmup_target = self._number("warmup_target", warmup_target)
        self.warmup_steps = self._number("warmup_steps", warmup_steps)

    def __call__(self, step: int) -> float:
        top, done = self.initial_learning_rate, float(step)
        if self.warmup_target is not None:
            if step < self.warmup_steps:
                return top + (self.warmup_target - top) * step / self.warmup_steps
            top = self.warmup_target
            done -= self.warmup_steps
        cosine = (1 + math.cos(math.pi * min(1.0, done / self.decay_steps))) / 2
        return top * ((1 - self.alpha) * cosine + self.alpha)

    def get_config(self) -> dict[str, Any]:
        return {
            "initial_learning_rate": self.initial_learning_rate,
            "decay_steps": self.decay_steps,
            "alpha": self.alpha,
            "name": self.name,
            "warmup_target": self.warmup_target,
            "warmup_steps": self.warmup_steps,
        }


@registry.register("schedule")
class CosineDecayRestarts(LearningRateSchedule):
    """Half a cosine down, again and again (SGDR: Loshchilov and Hutter 2017).

    Parameters
    ----------
    initial_learning_rate : float
        The first rate.
    first_decay_steps : float
        The length of the first descent, positive.
    t_mul : float
        How much longer each descent is than the one before, at least 1.
    m_mul : float
        How much higher each descent starts than the one before.
    alpha : float
        The lowest rate, as a fraction of the initial one.
    name : str
        Kept for the config only.

    Examples
    --------
    >>> rate = CosineDecayRestarts(0.1, first_decay_steps=10)
    >>> rate(0), rate(5), rate(10), rate(20), rate(30)
    (0.1, 0.05, 0.1, 0.05, 0.1)
    """

    def __init__(
        self,
        initial_learning_rate: float,
        first_decay_steps: float,
        t_mul: float = 2.0,
        m_mul: float = 1.0,
        alpha: float = 0.0,
        name: str = "SGDRDecay",
    ) -> None:
        self.initial_learning_rate = self._number("initial_learning_rate", initial_learning_rate)
        self.first_decay_steps = self._number(
            "first_decay_steps", first_decay_steps, 0, exclude=[0]
        )
        # Descents that shrink end after finitely many steps, with no rate defined after them.
        self.t_mul = self._number("t_mul", t_mul, 1)
        self.m_mul = self._number("m_mul", m_mul)
        self.alpha = self._number("alpha", alpha)
        self.name = name

    def __call__(self, step: int) -> float:
        descent, fraction = self._position(step / self.first_decay_steps)
        cosine = self.m_mul**descent * (1 + math.cos(math.pi * fraction)) / 2
        return self.initial_learning_rate * ((1 - self.alpha) * cosine + self.alpha)

    def _position(self, done: float) -> tuple[int, float]:
        """Return which descent we are in, and how far, from the number of first descents done."""
        t = self.t_mul
        if t == 1:
            return math.floor(done), done - math.floor(done)

        def start(descent: int) -> float:
            return (t**descent - 1) / (t - 1)

        descent = math.floor(math.log(1 + done * (t - 1)) / math.log(t))
        # The logarithm may land a rounding error on the wrong side of a restart.
        if done >= start(descent + 1):
            descent += 1
        elif done < start(descent):
            descent -= 1
        return descent, (done - start(descent)) / t**descent

    def get_config(self) -> dict[str, Any]:
        return {
            "initial_learning_rate": self.initial_learning_rate,
            "first_decay_steps": self.first_decay_steps,
            "t_mul": self.t_mul,
            "m_mul": self.m_mul,
            "alpha": self.alpha,
            "name": self.name,
        }


def serialize(learning_rate_schedule: LearningRateSchedule) -> dict[str, Any]:
    """Return the schedule as ``{"class_name": ..., "config": ...}``."""
    return registry.serialize(learning_rate_schedule)


def deserialize(
    config: dict[str, Any], custom_objects: registry.CustomObjects | None = None
) -> LearningRateSchedule:
    """Build the schedule that :func:`serialize` described.

    Raises
    ------
    ValueError
        If the config names no schedule that there is.
    """
    return registry.resolve("schedule", config, LearningRateSchedule, custom_objects)
