"""The optimizer interface: clipping, weight decay, learning rate and state over flat buffers.

A model keeps all its parameters in one float32 array and their gradients in another of the same
layout. ``apply`` clips the gradients in place and hands runs of neighbouring weights to the
optimizer's kernel, so that a model without frozen layers takes one kernel call a step.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from lamella import arguments, ops, registry
from lamella.arrays import like, to_numpy, zeros
from lamella.schedules import LearningRateSchedule
from lamella.schedules import deserialize as deserialize_schedule

# (start, stop, decay): a weight's place in the flat buffers, and whether weight decay acts on it.
Segment = tuple[int, int, bool]

# A model starts each weight at a multiple of this many floats. What lies between stays zero under
# every update, so weights that are neighbours up to it are updated as one run.
ALIGNMENT = 16

# Arguments of Keras' optimizers that change nothing at these values, and are refused at others.
_UNSUPPORTED = {
    "use_ema": False,
    "ema_overwrite_frequency": None,
    "loss_scale_factor": None,
    "gradient_accumulation_steps": None,
}


class _Run(NamedTuple):
    """Neighbouring weights that one kernel call updates: views of the flat buffers."""

    param: np.ndarray
    grad: np.ndarray
    slots: tuple[np.ndarray, ...]
    decay: bool


class _Plan(NamedTuple):
    """The kernel calls of a step, for as long as the model's buffers and segments stay."""

    params: np.ndarray
    grads: np.ndarray
    segments: tuple[Segment, ...]
    runs: list[_Run]
    weight_grads: list[np.ndarray]


class Optimizer:
    """Base class of the optimizers.

    Parameters
    ----------
    learning_rate : float or LearningRateSchedule
        Not negative.
    weight_decay : float, optional
        Decoupled decay: each step a weight first loses ``weight_decay * learning_rate`` of itself.
    clipnorm : float, optional
        Scale each weight's gradient down to at most this L2 norm.
    clipvalue : float, optional
        Clip each entry of the gradients to [-clipvalue, clipvalue].
    global_clipnorm : float, optional
        Scale all gradients together down to at most this joint L2 norm.
    name : str, optional
        The class name in lower case by default.
    **unsupported
        Keras' further arguments: ``use_ema``, ``ema_momentum``, ``ema_overwrite_frequency``,
        ``loss_scale_factor`` and ``gradient_accumulation_steps`` are taken at the values that
        leave them unused.

    Raises
    ------
    ValueError
        If an argument is out of its range or not supported, or if more than one of the three
        clipping arguments is given.

    Notes
    -----
    An optimizer of your own names its state arrays in ``slot_names`` and overrides ``_update``.
    """

    #: The names of the float32 state arrays, one value a parameter, that start at zero.
    slot_names: tuple[str, ...] = ()

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        name: str | None = None,
        **unsupported: Any,
    ) -> None:
        owner = type(self).__name__
        unsupported.pop("ema_momentum", None)  # acts only with use_ema
        for argument, value in unsupported.items():
            if argument not in _UNSUPPORTED:
                raise ValueError(f"{owner}: argument {argument!r} is not recognized")
            if value != _UNSUPPORTED[argument]:
                raise ValueError(
                    f"{owner}: {argument} is not supported; leave it at "
                    f"{_UNSUPPORTED[argument]}, got {value!r}"
                )
        clips = {"clipnorm": clipnorm, "clipvalue": clipvalue, "global_clipnorm": global_clipnorm}
        given = {key: value for key, value in clips.items() if value is not None}
        if len(given) > 1:
            raise ValueError(
                f"{owner}: only one of clipnorm, clipvalue and global_clipnorm may be given, "
                f"got {given}"
            )
        for key, value in given.items():
            clips[key] = arguments.number(owner, key, value, 0, exclude=[0])
        self.clipnorm = clips["clipnorm"]
        self.clipvalue = clips["clipvalue"]
        self.global_clipnorm = clips["global_clipnorm"]
        self.weight_decay = weight_decay
        if weight_decay is not None:
            self.weight_decay = arguments.number(owner, "weight_decay", weight_decay, 0)
        self.name = owner.lower() if name is None else name
        self._learning_rate: float | LearningRateSchedule = self._check_rate(learning_rate)
        self._iterations = 0
        self._slots: dict[str, np.ndarray] = {}
        self._plan: _Plan | None = None
        self._undecayed: list[Any] = []
        self._undecayed_names: list[str] = []

    def _check_rate(self, value: Any) -> float | LearningRateSchedule:
        if isinstance(value, LearningRateSchedule):
            return value
        owner = type(self).__name__
        try:
            return arguments.number(owner, "learning_rate", value, 0)
        except ValueError:
            raise ValueError(
                f"{owner}: learning_rate expects a finite number >= 0 or a LearningRateSchedule, "
                f"got {value!r}"
            ) from None

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step; settable, unless a schedule governs it."""
        if isinstance(self._learning_rate, LearningRateSchedule):
            return float(self._learning_rate(self._iterations))
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, value: float | LearningRateSchedule) -> None:
        checked = self._check_rate(value)
        governed = isinstance(self._learning_rate, LearningRateSchedule)
        if governed and not isinstance(checked, LearningRateSchedule):
            raise TypeError(
                f"{type(self).__name__}: a LearningRateSchedule governs the learning rate, so it "
                "cannot be set to a number; create the optimizer with a number to set it later"
            )
        self._learning_rate = checked

    @property
    def iterations(self) -> int:
        """How many steps have been taken."""
        return self._iterations

    def exclude_from_weight_decay(
        self, var_list: Iterable[Any] | None = None, var_names: Iterable[str] | None = None
    ) -> None:
        """Keep weight decay off some weights, before training starts.

        Parameters
        ----------
        var_list : iterable of Weight, optional
            The weights themselves.
        var_names : iterable of str, optional
            Regular expressions; a weight is excluded when one is found in its name or its path.

        Raises
        ------
        ValueError
            If a step has been taken already.
        """
        if self._iterations:
            raise ValueError(
                f"{type(self).__name__}: exclude_from_weight_decay must be called before training"
            )
        self._undecayed = list(var_list or ())
        self._undecayed_names = [re.compile(name).pattern for name in var_names or ()]

    def uses_weight_decay(self, weight: Any) -> bool:
        """Return whether weight decay acts on ``weight``: what a segment's third entry says."""
        if not self.weight_decay or any(weight is excluded for excluded in self._undecayed):
            return False
        labels = (str(weight.name), str(getattr(weight, "path", "")))
        return not any(re.search(name, label) for name in self._undecayed_names for label in labels)

    def apply(
        self, flat_params: np.ndarray, flat_grads: np.ndarray, segments: Sequence[Segment]
    ) -> None:
        """Take one step: change ``flat_params`` in place.

        Parameters
        ----------
        flat_params, flat_grads : float32 arrays (size,)
            All parameters of a model and their gradients, in one layout. Clipping changes the
            gradients in place.
        segments : sequence of (start, stop, decay)
            One entry for each weight to update, in order of ``start``.

        Raises
        ------
        ValueError
            If the arrays do not fit each other, the segments, or the state of earlier steps.
        """
        plan = self._plan
        segments = tuple(segments)
        if (
            plan is None
            or plan.params is not flat_params
            or plan.grads is not flat_grads
            or plan.segments != segments
        ):
            plan = self._plan = self._make_plan(flat_params, flat_grads, segments)
        learning_rate = self.learning_rate
        self._clip(plan)
        for run in plan.runs:
            decay = self.weight_decay if run.decay and self.weight_decay else 0.0
            self._update(run.param, run.grad, run.slots, learning_rate, decay)
        self._iterations += 1

    def _update(
        self,
        param: np.ndarray,
        grad: np.ndarray,
        slots: tuple[np.ndarray, ...],
        learning_rate: float,
        weight_decay: float,
    ) -> None:
        """Update ``param`` (n,) in place from ``grad`` (n,) and the slots, each (n,)."""
        raise NotImplementedError(f"{type(self).__name__} must override _update")

    def _make_plan(
        self, params: np.ndarray, grads: np.ndarray, segments: tuple[Segment, ...]
    ) -> _Plan:
        owner = type(self).__name__
        if params.ndim != 1 or params.shape != grads.shape:
            raise ValueError(
                f"{owner}.apply: flat_params and flat_grads expect one shape (size,), "
                f"got shapes {params.shape} and {grads.shape}"
            )
        place = 0
        for start, stop, _ in segments:
            if not place <= start <= stop <= params.size:
                raise ValueError(
                    f"{owner}.apply: segments must lie in order within {params.size} parameters, "
                    f"got segments={segments}"
                )
            place = stop
        for name in self.slot_names:
            slot = self._slots.get(name)
            slot = zeros(params, params.shape) if slot is None else like(params, slot)
            self._slots[name] = slot
            if slot.size != params.size:
                raise ValueError(
                    f"{owner}.apply: this optimizer holds the state of {slot.size} parameters, "
                    f"the model has {params.size}; create a new optimizer for a new model"
                )
        slots = [self._slots[name] for name in self.slot_names]
        runs = [
            _Run(params[start:stop], grads[start:stop], tuple(s[start:stop] for s in slots), decay)
            for start, stop, decay in merge_segments(segments)
        ]
        return _Plan(params, grads, segments, runs, [grads[a:b] for a, b, _ in segments])

    def _clip(self, plan: _Plan) -> None:
        if self.clipvalue is not None:
            for run in plan.runs:
                ops.clip_(run.grad, -self.clipvalue, self.clipvalue)
        elif self.clipnorm is not None:
            for grad in plan.weight_grads:
                _scale_to_norm([grad], math.sqrt(ops.squared_norm(grad)), self.clipnorm)
        elif self.global_clipnorm is not None:
            grads = plan.weight_grads
            norm = math.sqrt(sum(ops.squared_norm(grad) for grad in grads))
            _scale_to_norm(grads, norm, self.global_clipnorm)

    def variables(self) -> dict[str, np.ndarray]:
        """Return the state to save: ``iterations`` (int64, ()) and the slots so far, (size,)."""
        slots = {name: to_numpy(slot) for name, slot in self._slots.items()}
        return {"iterations": np.array(self._iterations, np.int64), **slots}

    def load_variables(self, variables: dict[str, np.ndarray]) -> None:
        """Restore what :meth:`variables` returned; the arrays are copied.

        Raises
        ------
        ValueError
            If names, shapes or dtypes are not those of this optimizer; nothing is changed then.
        """
        owner = type(self).__name__
        slots = {name: value for name, value in variables.items() if name != "iterations"}
        steps = np.asarray(variables.get("iterations", -1))
        if steps.shape != () or steps.dtype.kind not in "iu" or steps < 0:
            raise ValueError(f"{owner}: the state expects 'iterations', an integer >= 0")
        # No slots at all is the state before the first step.
        if slots and set(slots) != set(self.slot_names):
            raise ValueError(
                f"{owner}: the state expects {sorted(self.slot_names)}, got {sorted(slots)}"
            )
        sizes = {value.shape for value in [*self._slots.values(), *slots.values()]}
        if len(sizes) > 1 or any(len(shape) != 1 for shape in sizes):
            raise ValueError(
                f"{owner}: the state expects arrays of one shape (size,), "
                f"got shapes {sorted(sizes)}"
            )
        if any(value.dtype != np.float32 for value in slots.values()):
            raise ValueError(
                f"{owner}: the state expects float32 arrays, "
                f"got { {name: str(value.dtype) for name, value in slots.items()} }"
            )
        self._iterations = int(steps)
        self._slots = {name: np.array(slots[name]) for name in self.slot_names if slots}
        self._plan = None

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments, with the learning rate as it is now."""
        rate = self._learning_rate
        if isinstance(rate, LearningRateSchedule):
            return {"learning_rate": registry.serialize(rate), **self._base_config()}
        return {"learning_rate": rate, **self._base_config()}

    def _base_config(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "weight_decay": self.weight_decay,
            "clipnorm": self.clipnorm,
            "clipvalue": self.clipvalue,
            "global_clipnorm": self.global_clipnorm,
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: registry.CustomObjects | None = None
    ) -> Optimizer:
        """Build it from :meth:`get_config`'s result."""
        config = dict(config)
        if isinstance(config.get("learning_rate"), dict):
            config["learning_rate"] = deserialize_schedule(config["learning_rate"], custom_objects)
        return cls(**config)


def merge_segments(segments: Sequence[Segment]) -> list[Segment]:
    """Join weights that lie next to each other, up to alignment, and decay alike.

    Examples
    --------
    >>> merge_segments([(0, 10, True), (16, 20, True), (32, 48, False), (64, 70, False)])
    [(0, 20, True), (32, 48, False), (64, 70, False)]
    """
    merged: list[Segment] = []
    for start, stop, decay in segments:
        if merged:
            first, last, kind = merged[-1]
            if kind == decay and start == -(-last // ALIGNMENT) * ALIGNMENT:
                merged[-1] = (first, stop, kind)
                continue
        merged.append((start, stop, decay))
    return merged


def _scale_to_norm(grads: list[np.ndarray], norm: float, limit: float) -> None:
    """Scale ``grads``, whose joint norm is ``norm``, to a joint norm of at most ``limit``."""
    if norm <= limit:
        return
    if math.isfinite(norm):
        for grad in grads:
            ops.scale_(grad, limit / norm)
        return
    # No factor brings a gradient with Inf or NaN to a norm: NaN everywhere, so that it shows.
    for grad in grads:
        grad.fill(math.nan)
