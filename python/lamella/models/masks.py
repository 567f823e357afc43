"""Masks in a model's graph: which tensors have one, settled when the graph is made.

A mask is a bool array beside a tensor, of its leading axes, (N, T) for a sequence: False marks a
step that does not count. It begins at a layer that makes one (`Embedding` with ``mask_zero``,
`Masking`), is passed on by layers that keep steps apart (``supports_masking``), reaches those that
ask for it (``uses_mask``) and the loss, and ends at all others. A graph without such a layer has no
plan and pays nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from lamella.models.executor import Step

Mask = np.ndarray | None


class _StepPlan(NamedTuple):
    """`is_given`: the layer is called with its inputs' masks. `computes`: it makes its outputs'."""

    step: Step
    is_given: bool
    computes: bool


class MaskPlan:
    """What each step of a graph does with masks.

    Parameters
    ----------
    steps : sequence of Step
    outputs : tuple of int
        The slots of the graph's outputs.
    size : int
        The number of slots.
    """

    def __init__(self, steps: Sequence[Step], outputs: tuple[int, ...], size: int) -> None:
        # Slots whose tensor may have a mask when the graph runs.
        masked: set[int] = set()
        self.steps: list[_StepPlan | None] = []
        for step in steps:
            layer = step.layer
            arrives = not masked.isdisjoint(step.inputs)
            is_given = arrives and layer.uses_mask
            leaves = layer.makes_mask or (arrives and layer.supports_masking)
            if leaves:
                masked.update(step.outputs)
            elif arrives and not is_given and not layer.warned_of_mask:
                layer.warned_of_mask = True
                warnings.warn(
                    f"{layer.label} does not support masks: the mask of its input ends here, and "
                    "what comes after counts all steps",
                    stacklevel=2,
                )
            concerned = is_given or leaves
            self.steps.append(_StepPlan(step, is_given, leaves) if concerned else None)
        self.size = size
        self.outputs = outputs
        self.has_masks = bool(masked)
        self.reaches_outputs = not masked.isdisjoint(outputs)


class Masks:
    """The masks of one run of a graph.

    Parameters
    ----------
    plan : MaskPlan
    """

    def __init__(self, plan: MaskPlan) -> None:
        self._plan = plan
        self._values: list[Mask] = [None] * plan.size

    def call(self, position: int, function: Callable[..., Any], x: Any, *training: bool) -> Any:
        """Run the step at `position`, with the masks of its inputs; note those of its outputs."""
        plan = self._plan.steps[position]
        if plan is None:
            return function(x, *training)
        step, values = plan.step, self._values
        mask: Any = values[step.inputs[0]]
        if step.takes_list:
            mask = [values[slot] for slot in step.inputs]
        result = function(x, *training, mask=mask) if plan.is_given else function(x, *training)
        if plan.computes:
            made = step.layer.compute_mask(x, mask)
            if not isinstance(made, (list, tuple)):
                made = (made,)
            # As in Keras, masks belong to the outputs in order; what is missing is None.
            for slot, one in zip(step.outputs, made, strict=False):
                values[slot] = one
        return result

    def release(self, slots: Sequence[int]) -> None:
        """Forget masks that no later step reads."""
        for slot in slots:
            self._values[slot] = None

    @property
    def of_outputs(self) -> list[Mask]:
        """The masks of the graph's outputs."""
        return [self._values[slot] for slot in self._plan.outputs]
