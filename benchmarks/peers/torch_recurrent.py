"""The recurrent ops in PyTorch: whole batches, packed sequences, and single steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils import rnn

from benchmarks.cases import Case
from benchmarks.harness import Side
from benchmarks.peers.torch_layouts import Layout, Op, Tensors, as_array, as_tensor, gate_layouts


def _weights(t: Tensors) -> list[torch.Tensor]:
    bias, second = t["bias"], t.get("second_bias")
    if bias.ndim == 2:
        biases = (bias[0], bias[1])
    else:
        biases = (bias, torch.zeros_like(bias) if second is None else second)
    return [t["kernel"], t["recurrent_kernel"], *biases]


def _zeros(t: Tensors, batch: int, states: int) -> Any:
    zeros = t["x"].new_zeros(1, batch, t["recurrent_kernel"].shape[1])
    return (zeros, zeros) if states == 2 else zeros


def _layouts(*order: int) -> Mapping[str, Layout]:
    kernel, bias = gate_layouts(*order)
    return {"kernel": kernel, "recurrent_kernel": kernel, "bias": bias}


# -- whole batches ----------------------------------------------------------------------------


def _recurrent(
    function: Callable[..., Any], states: int
) -> Callable[[Tensors, dict[str, Any]], torch.Tensor]:
    """A layer as nn.LSTM and its kind call it."""

    def run(t: Tensors, options: dict[str, Any]) -> torch.Tensor:
        initial = _zeros(t, len(t["x"]), states)
        training = torch.is_grad_enabled()
        # has_biases, num_layers, dropout, train, bidirectional, batch_first
        return function(t["x"], initial, _weights(t), True, 1, 0.0, training, False, True)[0]

    return run


_FUNCTIONS = {"lstm": (torch.lstm, 2), "gru": (torch.gru, 1), "simple_rnn": (torch.rnn_tanh, 1)}
_LAYOUTS = {"lstm": _layouts(0, 1, 2, 3), "gru": _layouts(1, 0, 2), "simple_rnn": _layouts(0)}
_CUDNN_MODES = {"lstm": "LSTM", "gru": "GRU", "simple_rnn": "RNN_TANH"}


def _arrange(op: str) -> Callable[[dict[str, torch.Tensor]], None]:
    """Weights in one piece of memory, without which cuDNN would copy them in every call."""

    def arrange(t: dict[str, torch.Tensor]) -> None:
        if not t["kernel"].is_cuda:
            return
        bias, (columns, terms) = t["bias"], t["kernel"].shape
        two = bias if bias.ndim == 2 else torch.stack((bias, torch.zeros_like(bias)))
        pieces = [each.clone() for each in (t["kernel"], t["recurrent_kernel"], *two)]
        mode = torch.backends.cudnn.rnn.get_cudnn_mode(_CUDNN_MODES[op])
        units = t["recurrent_kernel"].shape[1]
        # weights of a layer, features, mode, units, projection, layers, batch_first, bidirectional
        torch._cudnn_rnn_flatten_weight(pieces, 4, terms, mode, units, 0, 1, True, False)
        t["kernel"], t["recurrent_kernel"] = pieces[:2]
        if bias.ndim == 1:
            t["bias"], t["second_bias"] = pieces[2:]
        else:  # both rows are one tensor here
            if pieces[3].data_ptr() != pieces[2].data_ptr() + pieces[2].nbytes:
                raise RuntimeError("cuDNN's two biases do not lie one behind the other")
            t["bias"] = pieces[2].as_strided((2, columns), (columns, 1))

    return arrange


OPS = {
    name: Op(_recurrent(*_FUNCTIONS[name]), layouts, arrange=_arrange(name))
    for name, layouts in _LAYOUTS.items()
}


# -- packed sequences -------------------------------------------------------------------------


def packed(op: str, steps: int, lengths: np.ndarray) -> Op:
    """An op over sequences of these lengths, packed before the op and unpacked after it."""
    rows = torch.from_numpy(lengths)
    ends = lengths - 1

    def pack(array: Any) -> rnn.PackedSequence:
        tensor = as_tensor(array)
        return rnn.pack_padded_sequence(tensor, rows, batch_first=True, enforce_sorted=False)

    order = pack(np.empty((len(lengths), steps, 1), np.float32))

    def unpack(data: torch.Tensor) -> np.ndarray:
        sequence = rnn.PackedSequence(data.detach().cpu(), *order[1:])
        padded, _ = rnn.pad_packed_sequence(sequence, batch_first=True, total_length=steps)
        return padded.numpy()

    def carry(data: torch.Tensor) -> np.ndarray:
        """The outputs as lamella has them: behind a sequence, its last one again."""
        y = unpack(data)
        for row, end in enumerate(ends):
            y[row, end:] = y[row, end]
        return y

    def gather(dy: Any) -> torch.Tensor:
        """Gradients of repeated outputs belong to the one that they repeat."""
        given = as_tensor(dy)
        summed = as_array(given).copy()
        for row, end in enumerate(ends):
            summed[row, end] = summed[row, end:].sum(axis=0)
        return pack(summed).data.to(given.device)

    function, states = _FUNCTIONS[op]

    def run(t: Tensors, options: dict[str, Any]) -> torch.Tensor:
        initial = _zeros(t, len(lengths), states)
        training = torch.is_grad_enabled()
        # has_biases, num_layers, dropout, train, bidirectional
        settings = (True, 1, 0.0, training, False)
        return function(t["x"], order.batch_sizes, initial, _weights(t), *settings)[0]

    x = Layout(lambda array: pack(array).data, unpack)
    return Op(run, {"x": x, **_LAYOUTS[op]}, Layout(gather, carry), _arrange(op))


# -- single steps -----------------------------------------------------------------------------


def step(case: Case, arrays: dict[str, Any]) -> Side:
    """One step after the other: calls of a cell, or of a layer on sequences of one step."""
    op, is_cell = case.op.removesuffix("_step"), case.options["peer_call"] == "cell"
    units, features = arrays["h"].shape[1], arrays["x"].shape[1]
    if is_cell:
        module = {"lstm": nn.LSTMCell, "gru": nn.GRUCell}[op](features, units)
    else:
        module = {"lstm": nn.LSTM, "gru": nn.GRU}[op](features, units)
    module.to(as_tensor(arrays["x"]).device)
    names = ("kernel", "recurrent_kernel", "bias")
    given = {name: _LAYOUTS[op][name].to_torch(arrays[name]) for name in names}
    with torch.no_grad():
        for own, tensor in zip(module.parameters(), _weights(given), strict=True):
            own.copy_(tensor)

    def tensor_of(name: str) -> torch.Tensor:
        tensor = as_tensor(arrays[name])
        return tensor if is_cell else tensor[None]

    x = tensor_of("x")
    states: Any = (tensor_of("h"), tensor_of("c")) if op == "lstm" else tensor_of("h")

    def run() -> Any:
        nonlocal states
        after = module(x, states)
        states = after if is_cell else after[1]
        return states

    def arrays_of(after: Any) -> list[np.ndarray]:
        parts = after if isinstance(after, tuple) else (after,)
        return [as_array(part.reshape(-1, units)) for part in parts]

    return Side("torch", run, arrays_of, torch.inference_mode)
