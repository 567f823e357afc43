"""How PyTorch keeps lamella's arrays, and an op as a function of tensors so kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

Tensors = Mapping[str, torch.Tensor]


class Layout(NamedTuple):
    """How an array of lamella's looks in PyTorch, and back."""

    to_torch: Callable[[np.ndarray], torch.Tensor]
    to_numpy: Callable[[torch.Tensor], np.ndarray]


def permuted(*axes: int) -> Layout:
    """Axes in another order, in memory too."""
    back = [axes.index(axis) for axis in range(len(axes))]
    return Layout(
        lambda array: torch.from_numpy(array).permute(axes).contiguous(),
        lambda tensor: tensor.permute(back).numpy(),
    )


def _conv_kernel(*axes: int) -> Layout:
    back = [axes.index(axis) for axis in range(len(axes))]
    return Layout(
        lambda array: (
            torch.from_numpy(array).permute(axes).contiguous(memory_format=torch.channels_last)
        ),
        lambda tensor: tensor.permute(back).numpy(),
    )


AS_IT_IS = Layout(torch.from_numpy, lambda tensor: tensor.numpy())
IMAGE = Layout(  # the same memory
    lambda array: torch.from_numpy(array).permute(0, 3, 1, 2),
    lambda tensor: tensor.permute(0, 2, 3, 1).numpy(),
)
SEQUENCE = permuted(0, 2, 1)
CONV2D_KERNEL = _conv_kernel(3, 2, 0, 1)  # of conv2d_transpose too: (KH, KW, F, C) -> (C, F, ...)
CONV1D_KERNEL = permuted(2, 1, 0)
DENSE_KERNEL = permuted(1, 0)


def gate_layouts(*order: int) -> tuple[Layout, Layout]:
    """A kernel (terms, gates * units) as (gates * units, terms) with the gates in another order.

    And a bias (gates * units) or (2, gates * units) likewise. `order` holds the number here of each
    of PyTorch's gates.
    """
    back = [order.index(gate) for gate in range(len(order))]

    def moved(array: np.ndarray, places: Sequence[int]) -> np.ndarray:
        parts = np.split(array, len(order), axis=-1)
        return np.concatenate([parts[place] for place in places], axis=-1)

    kernel = Layout(
        lambda array: torch.from_numpy(np.ascontiguousarray(moved(array, order).T)),
        lambda tensor: moved(tensor.numpy().T, back),
    )
    bias = Layout(
        lambda array: torch.from_numpy(moved(array, order)),
        lambda tensor: moved(tensor.numpy(), back),
    )
    return kernel, bias


class Op(NamedTuple):
    """A function of tensors and a case's options; arrays without a layout are as they are."""

    function: Callable[[Tensors, dict[str, Any]], torch.Tensor]
    layouts: Mapping[str, Layout] = {}
    result: Layout = AS_IT_IS
