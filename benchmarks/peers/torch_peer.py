"""PyTorch in its best mode: channels_last images, inference mode, fused Adam.

Tensors share memory with the arrays: an (N, H, W, C) array seen as (N, C, H, W) *is* channels_last.
Weights are laid out as PyTorch keeps them. Backward passes go through `torch.autograd.grad`, with
the graph of one forward pass kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from benchmarks.cases import Case
from benchmarks.harness import Side
from benchmarks.ours import ADAM
from benchmarks.peers import torch_attention, torch_models, torch_recurrent
from benchmarks.peers.torch_layouts import (
    AS_IT_IS,
    CONV1D_KERNEL,
    CONV2D_KERNEL,
    DENSE_KERNEL,
    IMAGE,
    SEQUENCE,
    Op,
    Tensors,
    as_array,
    as_tensor,
)

VERSION = torch.__version__


def set_threads(threads: int) -> None:
    torch.set_num_threads(threads)


def set_device(name: str) -> None:
    """Where models compute. On GPUs float32 is to be float32, and cuDNN may try its algorithms."""
    torch_models.set_device(name)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True


def prepare(case: Case, arrays: dict[str, Any], dy: Any) -> Side | None:
    """What PyTorch runs for a case."""
    if case.is_model:
        return torch_models.prepare(case, arrays)
    if case.direction == "step":
        return _adam(arrays)
    if case.op in ("lstm_step", "gru_step"):
        return torch_recurrent.step(case, arrays)
    if case.op == "multi_head_attention":
        return torch_attention.multi_head_attention(case, arrays, dy)
    op = _op_of(case, arrays)
    if op is None:
        return None
    layouts = {name: op.layouts.get(name, AS_IT_IS) for name in arrays}
    tensors = {name: layouts[name].to_torch(array) for name, array in arrays.items()}
    op.arrange(tensors)
    options = dict(case.options)
    if case.direction == "forward":
        return Side(
            "torch",
            lambda: op.function(tensors, options),
            lambda y: [op.result.to_numpy(y)],
            torch.inference_mode,
        )
    wanted = {name: tensors[name].requires_grad_() for name in case.wanted}
    gradient = op.result.to_torch(dy)
    inputs = tuple(wanted.values())

    def gradients(found: Sequence[torch.Tensor]) -> list[np.ndarray]:
        return [layouts[name].to_numpy(g) for name, g in zip(wanted, found, strict=True)]

    if case.direction == "backward":
        y = op.function(tensors, options)
        return Side(
            "torch",
            lambda: torch.autograd.grad(y, inputs, gradient, retain_graph=True),
            gradients,
        )

    def forward_and_backward() -> tuple[torch.Tensor, Sequence[torch.Tensor]]:
        y = op.function(tensors, options)
        return y, torch.autograd.grad(y, inputs, gradient)

    return Side(
        "torch",
        forward_and_backward,
        lambda results: [op.result.to_numpy(results[0]), *gradients(results[1])],
    )


def _op_of(case: Case, arrays: dict[str, Any]) -> Op | None:
    if "lengths" in arrays:
        lengths = as_array(as_tensor(arrays["lengths"]))
        return torch_recurrent.packed(case.op, case.shape("x")[1], lengths)
    return _OPS.get(case.op)


def _adam(arrays: dict[str, Any]) -> Side:
    param = as_tensor(arrays["param"]).clone()
    param.grad = as_tensor(arrays["grad"])
    optimizer = torch.optim.Adam(
        [param],
        lr=ADAM["learning_rate"],
        betas=(ADAM["beta_1"], ADAM["beta_2"]),
        eps=torch_models.corrected_epsilon(ADAM["epsilon"], ADAM["beta_2"]),
        fused=True,
    )

    def state(_: Any) -> list[np.ndarray]:
        slots = optimizer.state[param]
        return [as_array(t).copy() for t in (param, slots["exp_avg"], slots["exp_avg_sq"])]

    return Side("torch", optimizer.step, state)


# -- ops --------------------------------------------------------------------------------------


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


def _sum(t: Tensors) -> torch.Tensor:
    """What is normalized: x, with the residual if there is one."""
    return t["x"] + t["residual"] if "residual" in t else t["x"]


def _layer_norm(t: Tensors, options: dict[str, Any]) -> torch.Tensor:
    epsilon = options.get("epsilon", 1e-3)
    return functional.layer_norm(_sum(t), t["gamma"].shape, t["gamma"], t["beta"], epsilon)


def _rms_norm(t: Tensors, options: dict[str, Any]) -> torch.Tensor:
    epsilon = options.get("epsilon", 1e-6)
    return functional.rms_norm(_sum(t), t["gamma"].shape, t["gamma"], epsilon)


def _group_norm(t: Tensors, options: dict[str, Any]) -> torch.Tensor:
    epsilon = options.get("epsilon", 1e-3)
    return functional.group_norm(t["x"], options["groups"], t["gamma"], t["beta"], epsilon)


def _gelu(t: Tensors, options: dict[str, Any]) -> torch.Tensor:
    approximate = "tanh" if options.get("approximate", True) else "none"
    return functional.gelu(t["x"], approximate=approximate)


_IMAGES = {"x": IMAGE, "kernel": CONV2D_KERNEL}
_SEQUENCES = {"x": SEQUENCE, "kernel": CONV1D_KERNEL}
_OPS = {
    "matmul": Op(lambda t, options: torch.mm(t["a"], t["b"])),
    "dense": Op(_dense, {"kernel": DENSE_KERNEL}),
    "conv2d": Op(_convolution(functional.conv2d), _IMAGES, IMAGE),
    "conv1d": Op(_convolution(functional.conv1d), _SEQUENCES, SEQUENCE),
    "conv2d_transpose": Op(_conv2d_transpose, _IMAGES, IMAGE),
    "max_pool2d": Op(_pool(functional.max_pool2d), _IMAGES, IMAGE),
    "avg_pool2d": Op(_pool(functional.avg_pool2d, count_include_pad=False), _IMAGES, IMAGE),
    "global_avg_pool2d": Op(lambda t, options: t["x"].mean(dim=(2, 3)), _IMAGES),
    **torch_recurrent.OPS,
    "attention": torch_attention.ATTENTION,
    "additive_attention": torch_attention.ADDITIVE_ATTENTION,
    "rotary_embedding": torch_attention.ROTARY_EMBEDDING,
    "softmax": Op(lambda t, options: torch.softmax(t["x"], options.get("axis", -1))),
    "batch_norm": Op(_batch_norm, _IMAGES, IMAGE),
    "layer_norm": Op(_layer_norm),
    "rms_norm": Op(_rms_norm),
    "group_norm": Op(_group_norm, _IMAGES, IMAGE),
    "relu": Op(lambda t, options: functional.relu(t["x"])),
    "gelu": Op(_gelu),
    "dropout": Op(lambda t, options: functional.dropout(t["x"], options["rate"], training=True)),
    "add": Op(lambda t, options: torch.add(t["a"], t["b"])),
    "embedding": Op(lambda t, options: functional.embedding(t["indices"], t["table"])),
    "sparse_categorical_crossentropy": Op(
        lambda t, options: functional.cross_entropy(t["y_pred"], t["labels"], reduction="none")
    ),
}
