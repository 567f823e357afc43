"""PyTorch in its best mode for CPUs: channels_last images, inference mode, fused Adam.

Tensors share memory with the arrays: an (N, H, W, C) array seen as (N, C, H, W) *is* channels_last.
Weights are laid out as PyTorch keeps them. Backward passes go through `torch.autograd.grad`, with
the graph of one forward pass kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional

from benchmarks.cases import Case
from benchmarks.harness import Side
from benchmarks.ours import ADAM
from benchmarks.peers import torch_models

VERSION = torch.__version__
Tensors = Mapping[str, torch.Tensor]


def set_threads(threads: int) -> None:
    torch.set_num_threads(threads)


def prepare(case: Case, arrays: dict[str, np.ndarray], dy: np.ndarray | None) -> Side | None:
    """What PyTorch runs for a case."""
    if case.direction in ("train", "predict"):
        return torch_models.prepare(case, arrays)
    if case.direction == "step":
        return _adam(arrays)
    if case.op not in _OPS:
        return None
    op = _OPS[case.op]
    layouts = {name: op.layouts.get(name, AS_IT_IS) for name in arrays}
    tensors = {name: layouts[name].to_torch(array) for name, array in arrays.items()}
    options = dict(case.options)
    if case.direction == "forward":
        return Side(
            "torch",
            lambda: op.function(tensors, options),
            lambda y: [op.result.to_numpy(y)],
            torch.inference_mode,
        )
    wanted = {
        name: tensors[name].requires_grad_()
        for name, needed in zip(arrays, case.needs, strict=True)
        if needed
    }
    y = op.function(tensors, options)
    gradient = op.result.to_torch(dy)
    inputs = tuple(wanted.values())
    return Side(
        "torch",
        lambda: torch.autograd.grad(y, inputs, gradient, retain_graph=True),
        lambda found: [layouts[name].to_numpy(g) for name, g in zip(wanted, found, strict=True)],
    )


def _adam(arrays: dict[str, np.ndarray]) -> Side:
    param = torch.tensor(arrays["param"])
    param.grad = torch.from_numpy(arrays["grad"])
    optimizer = torch.optim.Adam(
        [param],
        lr=ADAM["learning_rate"],
        betas=(ADAM["beta_1"], ADAM["beta_2"]),
        eps=torch_models.corrected_epsilon(ADAM["epsilon"], ADAM["beta_2"]),
        fused=True,
    )

    def state(_: Any) -> list[np.ndarray]:
        slots = optimizer.state[param]
        return [t.numpy().copy() for t in (param, slots["exp_avg"], slots["exp_avg_sq"])]

    return Side("torch", optimizer.step, state)


# -- layouts ----------------------------------------------------------------------------------


class Layout(NamedTuple):
    """How an array of lamella's looks in PyTorch, and back."""

    to_torch: Callable[[np.ndarray], torch.Tensor]
    to_numpy: Callable[[torch.Tensor], np.ndarray]


def _permuted(*axes: int) -> Layout:
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
SEQUENCE = _permuted(0, 2, 1)
CONV2D_KERNEL = _conv_kernel(3, 2, 0, 1)  # of conv2d_transpose too: (KH, KW, F, C) -> (C, F, ...)
CONV1D_KERNEL = _permuted(2, 1, 0)
DENSE_KERNEL = _permuted(1, 0)


def _gates(*order: int) -> tuple[Layout, Layout]:
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


# -- ops --------------------------------------------------------------------------------------


class _Op(NamedTuple):
    function: Callable[[Tensors, dict[str, Any]], torch.Tensor]
    layouts: Mapping[str, Layout] = {}
    result: Layout = AS_IT_IS


def _activated(y: torch.Tensor, activation: str | None) -> torch.Tensor:
    if activation is None:
        return y
    if activation == "relu":
        return functional.relu_(y)
    raise ValueError(f"benchmarks know the activation relu, got {activation!r}")


def _dense(t: Tensors, options: dict[str, Any]) -> torch.Tensor:
    y = functional.linear(t["x"], t["kernel"], t.get("bias"))
    return _activated(y, options.get("activation"))


def _convolution(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def run(t: Tensors, options: dict[str, Any]) -> torch.Tensor:
        y = function(
            t["x"],
            t["kernel"],
            t.get("bias"),
            options.get("strides", 1),
            options.get("padding", "valid"),
            options.get("dilation", 1),
            options.get("groups", 1),
        )
        return _activated(y, options.get("activation"))

    return run


def _conv2d_transpose(t: Tensors, options: dict[str, Any]) -> torch.Tensor:
    return functional.conv_transpose2d(
        t["x"], t["kernel"], t.get("bias"), options.get("strides", 1), options.get("padding", 0)
    )


def _pool(function: Callable[..., torch.Tensor], **extra: Any) -> Callable[..., torch.Tensor]:
    def run(t: Tensors, options: dict[str, Any]) -> torch.Tensor:
        size = options.get("pool_size", 2)
        strides, padding = options.get("strides", size), options.get("padding", 0)
        return function(t["x"], size, strides, padding, **extra)

    return run


def _batch_norm(t: Tensors, options: dict[str, Any]) -> torch.Tensor:
    return functional.batch_norm(
        t["x"],
        t.get("mean"),
        t.get("variance"),
        t["gamma"],
        t["beta"],
        training="mean" not in t,
        eps=options.get("epsilon", 1e-3),
    )


def _gelu(t: Tensors, options: dict[str, Any]) -> torch.Tensor:
    approximate = "tanh" if options.get("approximate", True) else "none"
    return functional.gelu(t["x"], approximate=approximate)


def _recurrent(
    function: Callable[..., Any], states: int
) -> Callable[[Tensors, dict[str, Any]], torch.Tensor]:
    """A layer as nn.LSTM and its kind call it."""

    def run(t: Tensors, options: dict[str, Any]) -> torch.Tensor:
        x, bias = t["x"], t["bias"]
        biases = (bias, torch.zeros_like(bias)) if bias.ndim == 1 else (bias[0], bias[1])
        zeros = x.new_zeros(1, len(x), t["recurrent_kernel"].shape[1])
        initial = (zeros, zeros) if states == 2 else zeros
        weights = [t["kernel"], t["recurrent_kernel"], *biases]
        training = torch.is_grad_enabled()
        # has_biases, num_layers, dropout, train, bidirectional, batch_first
        return function(x, initial, weights, True, 1, 0.0, training, False, True)[0]

    return run


def _recurrent_layouts(*order: int) -> Mapping[str, Layout]:
    kernel, bias = _gates(*order)
    return {"kernel": kernel, "recurrent_kernel": kernel, "bias": bias}


_IMAGES = {"x": IMAGE, "kernel": CONV2D_KERNEL}
_SEQUENCES = {"x": SEQUENCE, "kernel": CONV1D_KERNEL}
_OPS = {
    "matmul": _Op(lambda t, options: torch.mm(t["a"], t["b"])),
    "dense": _Op(_dense, {"kernel": DENSE_KERNEL}),
    "conv2d": _Op(_convolution(functional.conv2d), _IMAGES, IMAGE),
    "conv1d": _Op(_convolution(functional.conv1d), _SEQUENCES, SEQUENCE),
    "conv2d_transpose": _Op(_conv2d_transpose, _IMAGES, IMAGE),
    "max_pool2d": _Op(_pool(functional.max_pool2d), _IMAGES, IMAGE),
    "avg_pool2d": _Op(_pool(functional.avg_pool2d, count_include_pad=False), _IMAGES, IMAGE),
    "global_avg_pool2d": _Op(lambda t, options: t["x"].mean(dim=(2, 3)), _IMAGES),
    "lstm": _Op(_recurrent(torch.lstm, 2), _recurrent_layouts(0, 1, 2, 3)),
    "gru": _Op(_recurrent(torch.gru, 1), _recurrent_layouts(1, 0, 2)),
    "simple_rnn": _Op(_recurrent(torch.rnn_tanh, 1), _recurrent_layouts(0)),
    "softmax": _Op(lambda t, options: torch.softmax(t["x"], options.get("axis", -1))),
    "batch_norm": _Op(_batch_norm, _IMAGES, IMAGE),
    "relu": _Op(lambda t, options: functional.relu(t["x"])),
    "gelu": _Op(_gelu),
    "dropout": _Op(lambda t, options: functional.dropout(t["x"], options["rate"], training=True)),
    "add": _Op(lambda t, options: torch.add(t["a"], t["b"])),
    "embedding": _Op(lambda t, options: functional.embedding(t["indices"], t["table"])),
    "sparse_categorical_crossentropy": _Op(
        lambda t, options: functional.cross_entropy(t["y_pred"], t["labels"], reduction="none")
    ),
}
