"""All parameters of a model in one flat array, their gradients in another of the same layout.

Weights are views, so the optimizer is one kernel call over the array, clipping by the global norm
one pass, saving one copy. Each weight begins at a multiple of 16 floats (one cache line); what lies
between the end of a weight and that boundary stays zero. State that no gradient reaches (moving
statistics) lies in a third array, which makes undoing a failed step one copy.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from lamella.arrays import copy_to
from lamella.layers.base import Weight
from lamella.ops._backend import device_module

# 16 floats are 64 bytes: a cache line, and the widest vector register.
_ALIGNMENT = 16


class FlatBuffer:
    """Owner of the memory of a model's weights.

    Parameters
    ----------
    weights : sequence of Weight
        In the model's order, without repetition. Those created trainable go into `values`, the
        others into `state`; creating the buffer moves their present values there.

    Attributes
    ----------
    values, gradients : array, float32, shape (size,)
        Parameters and their gradients, 64-byte aligned, on the device of the weights.
    state : array, float32, shape (state_size,)
        Weights that are not trained.
    """

    def __init__(self, weights: Sequence[Weight]) -> None:
        self.weights = list(weights)
        self._parameters = [weight for weight in self.weights if weight.trainable]
        statistics = [weight for weight in self.weights if not weight.trainable]
        starts, size = _layout(self._parameters)
        state_starts, state_size = _layout(statistics)
        module = device_module(self.weights[0].value) if self.weights else None
        self.values = _aligned_zeros(size, module)
        self.gradients = _aligned_zeros(size, module)
        self.state = _aligned_zeros(state_size, module)
        self._saved_state = self.state.copy()
        self._spans = {
            id(weight): (start, start + weight.size)
            for weight, start in zip(self._parameters, starts, strict=True)
        }
        for weight, start in zip(self._parameters, starts, strict=True):
            weight.bind(_view(self.values, start, weight), _view(self.gradients, start, weight))
        for weight, start in zip(statistics, state_starts, strict=True):
            weight.bind(_view(self.state, start, weight))
        self._views = [weight.value for weight in self.weights]

    def owns(self, weights: Sequence[Weight]) -> bool:
        """Return whether `weights` are the buffer's, and still live in it.

        Another model that shares layers with this one moves them into its own buffer when it
        trains.
        """
        if len(weights) != len(self.weights):
            return False
        return all(
            weight is known and weight.value is view
            for weight, known, view in zip(weights, self.weights, self._views, strict=True)
        )

    def segments(
        self, weights: Iterable[Weight], decayed: Iterable[bool]
    ) -> list[tuple[int, int, bool]]:
        """Return (start, stop, decay) of each of `weights`, as `Optimizer.apply` takes them."""
        return [
            (*self._spans[id(weight)], decay)
            for weight, decay in zip(weights, decayed, strict=True)
        ]

    def save_state(self) -> None:
        """Remember the untrained state, for `restore_state`."""
        if self.state.size:
            copy_to(self._saved_state, self.state)

    def restore_state(self) -> None:
        """Undo what happened to the untrained state since `save_state`."""
        if self.state.size:
            copy_to(self.state, self._saved_state)


def flat_size(weights: Iterable[Weight]) -> int:
    """Return the length of a buffer's `values` for these weights."""
    return _layout(weight for weight in weights if weight.trainable)[1]


def _layout(weights: Iterable[Weight]) -> tuple[list[int], int]:
    starts, position = [], 0
    for weight in weights:
        starts.append(position)
        position += -(-weight.size // _ALIGNMENT) * _ALIGNMENT
    return starts, position


def _aligned_zeros(size: int, module: Any) -> Any:
    if module is not None:
        return module.zeros(size, "float32")
    raw = np.zeros(size + _ALIGNMENT, np.float32)
    offset = (-raw.ctypes.data // raw.itemsize) % _ALIGNMENT
    return raw[offset : offset + size]


def _view(flat: Any, start: int, weight: Weight) -> Any:
    return flat[start : start + weight.size].reshape(weight.shape)
