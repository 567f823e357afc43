"""How PyTorch keeps lamella's arrays, and an op as a function of tensors so kept.

Arrays are NumPy's, or a device's (`lamella.cuda.Array`): tensors lie where they do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

Tensors = Mapping[str, torch.Tensor]


def as_tensor(array: Any) -> torch.Tensor:
    """A tensor that shares the array's memory."""
    return torch.from_numpy(array) if isinstance(array, np.ndarray) else torch.from_dlpack(array)


def as_array(tensor: torch.Tensor) -> np.ndarray:
    """A tensor's elements on the host: of one that lies there, the same memory."""
    return tensor.detach().cpu().numpy()


class Layout(NamedTuple):
    """How an array of lamella's looks in PyTorch, and back on the host."""

    to_torch: Callable[[Any], torch.Tensor]
    to_numpy: Callable[[torch.Tensor], np.ndarray]


def permuted(*axes: int) -> Layout:
    """Axes in another order, in memory too."""
    back = [axes.index(axis) for axis in range(len(axes))]
    return Layout(
        lambda array: as_tensor(array).permute(axes).contiguous(),
        lambda tensor: as_array(tensor.permute(back)),
    )


def _conv_kernel(*axes: int) -> Layout:
    back = [axes.index(axis) for axis in range(len(axes))]
    return Layout(
        lambda array: as_tensor(array).permute(axes).contiguous(memory_format=torch.channels_last),
        lambda tensor: as_array(tensor.permute(back)),
    )


AS_IT_IS = Layout(as_tensor, as_array)
IMAGE = Layout(  # the same memory
    lambda array: as_tensor(array).permute(0, 3, 1, 2),
    lambda tensor: as_array(tensor.permute(0, 2, 3, 1)),
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

    def moved(tensor: torch.Tensor, places: Sequence[int]) -> torch.Tensor:
        parts = tensor.chunk(len(order), dim=-1)
        return torch.cat([parts[place] for place in places], dim=-1)

    kernel = Layout(
        lambda array: moved(as_tensor(array), order).T.contiguous(),
        lambda tensor: as_array(moved(tensor.T, back)),
    )
    bias = Layout(
        lambda array: moved(as_tensor(array), order),
        lambda tensor: as_array(moved(tensor, back)),
    )
    return kernel, bias


class Op(NamedTuple):
    """A function of tensors and a case's options; arrays without a layout are as they are.

    `arrange` moves the tensors, once, to where the function runs best.
    """

    function: Callable[[Tensors, dict[str, Any]], torch.Tensor]
    layouts: Mapping[str, Layout] = {}
    result: Layout = AS_IT_IS
    arrange: Callable[[dict[str, torch.Tensor]], None] = lambda tensors: None
