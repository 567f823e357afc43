"""PyTorch functions captured in CUDA graphs: all their launches cost the host as much as one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Function = Callable[..., torch.Tensor]
_WARM_UP = 3  # calls in which libraries choose algorithms and take memory


def captured(function: Function, *inputs: torch.Tensor) -> Function:
    """A function whose calls copy the inputs to where the graph reads them, and replay it.

    The result is overwritten by the next call. `inputs` are on the GPU.
    """
    return _capture(function, inputs, lambda: None)


def training(update: Function, optimizer: torch.optim.Optimizer, *inputs: torch.Tensor) -> Function:
    """A step of training as `captured`; weights and the optimizer's state are as before it."""
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    before = [parameter.detach().clone() for parameter in parameters]

    def put_back() -> None:
        with torch.no_grad():
            for parameter, value in zip(parameters, before, strict=True):
                parameter.copy_(value)
            for state in optimizer.state.values():
                for tensor in state.values():
                    tensor.zero_()
        # So the graph makes gradients instead of adding to those of the calls before it.
        optimizer.zero_grad(set_to_none=True)

    return _capture(update, inputs, put_back)


def _capture(
    function: Function, inputs: tuple[torch.Tensor, ...], put_back: Callable[[], Any]
) -> Function:
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(_WARM_UP):
            function(*inputs)
        put_back()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = function(*inputs)

    def replay(*given: torch.Tensor) -> torch.Tensor:
        for place, tensor in zip(inputs, given, strict=True):
            place.copy_(tensor)
        graph.replay()
        return result

    return replay
