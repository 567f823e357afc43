"""Attention in PyTorch: scaled_dot_product_attention on (N, A, S, E), and nn.MultiheadAttention.

Additive attention and rotary embeddings are made of PyTorch's elementwise operators.
"""

from __future__ import annotations

import timeit
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from benchmarks.cases import Case
from benchmarks.harness import Side
from benchmarks.peers.torch_layouts import Op, Tensors, as_array, as_tensor, permuted
from benchmarks.peers.torch_models import MultiHeadSelfAttention

_HEADS_FIRST = permuted(0, 2, 1, 3)


def _attention(t: Tensors, options: dict[str, Any]) -> torch.Tensor:
    return functional.scaled_dot_product_attention(
        t["query"],
        t["key"],
        t["value"],
        t.get("mask"),
        options.get("dropout", 0.0),
        options.get("causal", False),
    )


ATTENTION = Op(_attention, dict.fromkeys(("query", "key", "value"), _HEADS_FIRST), _HEADS_FIRST)


def _additive_attention(t: Tensors, options: dict[str, Any]) -> torch.Tensor:
    """The formula as models write it: PyTorch has no operator for it."""
    hidden = torch.tanh(t["query"].unsqueeze(2) + t["key"].unsqueeze(1))
    scores = hidden @ t["scale"]
    if "mask" in t:
        scores = scores.masked_fill(~t["mask"], -torch.inf)
    return torch.softmax(scores, dim=-1) @ t["value"]


ADDITIVE_ATTENTION = Op(_additive_attention)


def _rotary_embedding(t: Tensors, options: dict[str, Any]) -> torch.Tensor:
    """The formula as models write it: PyTorch has no operator for it."""
    x, (cos, sin) = t["x"], (t[name].unsqueeze(-2) for name in ("cos", "sin"))
    if options.get("interleaved"):
        first, second = x[..., 0::2], x[..., 1::2]
        turned = torch.stack((first * cos - second * sin, second * cos + first * sin), dim=-1)
        return turned.flatten(-2)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


ROTARY_EMBEDDING = Op(_rotary_embedding)


def multi_head_attention(case: Case, arrays: dict[str, Any], dy: Any) -> Side:
    """Self-attention with projections."""
    if not arrays["query"] is arrays["key"] is arrays["value"]:
        raise ValueError(
            f"{case.id}: measured with PyTorch is the attention of a sequence to itself"
        )
    names = [
        f"{part}_{k}" for part in ("query", "key", "value", "output") for k in ("kernel", "bias")
    ]
    module = MultiHeadSelfAttention(*(as_tensor(arrays[name]) for name in names))
    x = as_tensor(arrays["query"])
    if case.direction == "forward":
        with torch.inference_mode():
            module.train(_seconds(module.train(), x) < _seconds(module.eval(), x))
        return Side("torch", lambda: module(x), lambda y: [as_array(y)], torch.inference_mode)
    x.requires_grad_()
    inputs = (x, *module.projections)
    gradient = as_tensor(dy)

    def gradients(found: Sequence[torch.Tensor]) -> list[np.ndarray]:
        by_name = dict(zip(names, module.as_ours(found[1:]), strict=True))
        by_name["query"] = as_array(found[0])
        return [by_name[name] for name in case.wanted]

    if case.direction == "backward":
        y = module(x)
        return Side(
            "torch",
            lambda: torch.autograd.grad(y, inputs, gradient, retain_graph=True),
            gradients,
        )

    def forward_and_backward() -> tuple[torch.Tensor, Sequence[torch.Tensor]]:
        y = module(x)
        return y, torch.autograd.grad(y, inputs, gradient)

    return Side(
        "torch",
        forward_and_backward,
        lambda results: [as_array(results[0]), *gradients(results[1])],
    )


def _seconds(module: torch.nn.Module, x: torch.Tensor) -> float:
    """A call's time, the best of five.

    nn.MultiheadAttention has a path of its own for inference, which is the faster one for small
    sizes and the slower one for large.
    """

    def call() -> None:
        module(x)
        if x.is_cuda:
            torch.cuda.synchronize()

    call()
    return min(timeit.repeat(call, number=1, repeat=5))
