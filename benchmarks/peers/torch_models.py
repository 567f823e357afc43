"""Whole networks in PyTorch: channels_last, fused Adam, inference mode.

Every layer takes lamella's weights and gives its gradients in lamella's order and layout, so that a
network is a list of layers. On a GPU batches come from pinned memory of the host in every call, and
the loss or the prediction goes back there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks import encoder
from benchmarks.cases import Case
from benchmarks.harness import Side
from benchmarks.models import BETA_1, BETA_2, EPSILON, LEARNING_RATE, weights_of
from benchmarks.peers import torch_graphs
from benchmarks.peers.torch_layouts import as_array

Weights = dict[str, torch.Tensor]

_device = torch.device("cpu")


def set_device(name: str) -> None:
    global _device
    _device = torch.device(name)


def corrected_epsilon(epsilon: float, beta_2: float) -> float:
    """The epsilon that makes PyTorch's first step of Adam equal to Keras' and lamella's.

    These add it to the root of the second moment as it is, PyTorch to that of the corrected one.
    """
    return epsilon / math.sqrt(1 - beta_2)


# -- layers -----------------------------------------------------------------------------------


class Layer(nn.Module):
    """A part of a network; `gradients` gives those of its weights as lamella has them."""

    def gradients(self) -> list[np.ndarray]:
        return []


class Function(Layer):
    """A part without weights."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


def _parameter(tensor: torch.Tensor, *axes: int) -> nn.Parameter:
    return nn.Parameter(tensor.permute(axes).contiguous() if axes else tensor.clone())


def _gradient(parameter: nn.Parameter, *axes: int) -> np.ndarray:
    assert parameter.grad is not None
    gradient = parameter.grad.permute(axes) if axes else parameter.grad
    return as_array(gradient).copy()


class Conv2d(Layer):
    def __init__(self, kernel: torch.Tensor, bias: torch.Tensor) -> None:
        super().__init__()
        self.conv = nn.Conv2d(kernel.shape[2], kernel.shape[3], kernel.shape[:2])
        self.conv.weight, self.conv.bias = _parameter(kernel, 3, 2, 0, 1), _parameter(bias)
        self.conv.to(memory_format=torch.channels_last)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu_(self.conv(x))

    def gradients(self) -> list[np.ndarray]:
        return [_gradient(self.conv.weight, 2, 3, 1, 0), _gradient(self.conv.bias)]


class Dense(Layer):
    def __init__(self, kernel: torch.Tensor, bias: torch.Tensor) -> None:
        super().__init__()
        self.linear = nn.Linear(*kernel.shape)
        self.linear.weight, self.linear.bias = _parameter(kernel, 1, 0), _parameter(bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)

    def gradients(self) -> list[np.ndarray]:
        return [_gradient(self.linear.weight, 1, 0), _gradient(self.linear.bias)]


class Embedding(Layer):
    def __init__(self, table: torch.Tensor) -> None:
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(table.clone(), freeze=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.embedding(x)

    def gradients(self) -> list[np.ndarray]:
        return [_gradient(self.embedding.weight)]


class LSTM(Layer):
    """All outputs. PyTorch's second bias stays 0: with both trained, their sum would move twice."""

    def __init__(
        self, kernel: torch.Tensor, recurrent_kernel: torch.Tensor, bias: torch.Tensor
    ) -> None:
        super().__init__()
        self.lstm = nn.LSTM(len(kernel), len(recurrent_kernel), batch_first=True)
        self.lstm.weight_ih_l0 = _parameter(kernel, 1, 0)
        self.lstm.weight_hh_l0 = _parameter(recurrent_kernel, 1, 0)
        self.lstm.bias_ih_l0 = _parameter(bias)
        self.lstm.bias_hh_l0 = nn.Parameter(torch.zeros_like(bias), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lstm(x)[0]

    def gradients(self) -> list[np.ndarray]:
        kernels = (self.lstm.weight_ih_l0, self.lstm.weight_hh_l0)
        return [*(_gradient(each, 1, 0) for each in kernels), _gradient(self.lstm.bias_ih_l0)]


class MultiHeadSelfAttention(Layer):
    """nn.MultiheadAttention with lamella's weights: kernels (D, A, E) and (A, E, D)."""

    def __init__(self, *weights: torch.Tensor) -> None:
        super().__init__()
        kernels, biases = weights[0::2], weights[1::2]
        width, self.heads, size = kernels[0].shape
        if self.heads * size != width or kernels[3].shape[2] != width:
            raise ValueError("nn.MultiheadAttention has as many features in its heads as outside")
        self.attention = nn.MultiheadAttention(width, self.heads, batch_first=True)
        flat = [kernel.reshape(width, width) for kernel in kernels]
        self.attention.in_proj_weight = _parameter(torch.cat(flat[:3], dim=1), 1, 0)
        self.attention.in_proj_bias = _parameter(torch.cat([b.flatten() for b in biases[:3]]))
        self.attention.out_proj.weight = _parameter(flat[3], 1, 0)
        self.attention.out_proj.bias = _parameter(biases[3])

    @property
    def projections(self) -> list[nn.Parameter]:
        """Weight and bias of the inputs' projections, then of the output's."""
        inputs, output = self.attention, self.attention.out_proj
        return [inputs.in_proj_weight, inputs.in_proj_bias, output.weight, output.bias]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attention(x, x, x, need_weights=False)[0]

    def as_ours(self, found: Sequence[torch.Tensor]) -> list[np.ndarray]:
        """Gradients of `projections` as those of four kernels, each with its bias behind it."""
        weight, bias, output_weight, output_bias = (as_array(each).copy() for each in found)
        width = len(output_bias)
        inwards = (width, self.heads, width // self.heads)
        arrays: list[np.ndarray] = []
        for kernel, vector in zip(np.split(weight, 3), np.split(bias, 3), strict=True):
            arrays += [kernel.T.reshape(inwards), vector.reshape(inwards[1:])]
        return [*arrays, output_weight.T.reshape(*inwards[1:], width), output_bias]

    def gradients(self) -> list[np.ndarray]:
        found = [each.grad for each in self.projections]
        return self.as_ours([each for each in found if each is not None])


class TransformerEncoder(Layer):
    """nn.TransformerEncoderLayer without dropout."""

    def __init__(self, w: Weights) -> None:
        super().__init__()
        self.attention = MultiHeadSelfAttention(*_attention_weights(w))
        width, hidden = w["intermediate_kernel"].shape
        self.layer = nn.TransformerEncoderLayer(
            width,
            self.attention.heads,
            hidden,
            dropout=0.0,
            activation=encoder.ACTIVATION,
            layer_norm_eps=encoder.EPSILON,
            batch_first=True,
        )
        self.layer.self_attn = self.attention.attention
        for name, norm in (("attention", self.layer.norm1), ("feed_forward", self.layer.norm2)):
            norm.weight, norm.bias = _parameter(w[f"{name}_gamma"]), _parameter(w[f"{name}_beta"])
        for name, linear in self._linear_layers():
            linear.weight = _parameter(w[f"{name}_kernel"], 1, 0)
            linear.bias = _parameter(w[f"{name}_bias"])

    def _linear_layers(self) -> list[tuple[str, nn.Linear]]:
        return [("intermediate", self.layer.linear1), ("feed_forward", self.layer.linear2)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)

    def gradients(self) -> list[np.ndarray]:
        found = self.attention.gradients()
        for norm in (self.layer.norm1, self.layer.norm2):
            found += [_gradient(norm.weight), _gradient(norm.bias)]
        for _, linear in self._linear_layers():
            found += [_gradient(linear.weight, 1, 0), _gradient(linear.bias)]
        return found


# -- networks ---------------------------------------------------------------------------------


def _cnn(w: Weights) -> list[Layer]:
    return [
        Function(lambda x: x.permute(0, 3, 1, 2)),  # channels_last, without a copy
        Conv2d(w["kernel_1"], w["bias_1"]),
        Function(nn.MaxPool2d(2)),
        Conv2d(w["kernel_2"], w["bias_2"]),
        Function(nn.MaxPool2d(2)),
        # In channels_last memory this order of the axes flattens without a copy.
        Function(lambda x: x.permute(0, 2, 3, 1).flatten(1)),
        Dense(w["kernel_3"], w["bias_3"]),
        Function(torch.relu_),
        Dense(w["kernel_4"], w["bias_4"]),
    ]


def _lstm(w: Weights, number: int) -> LSTM:
    return LSTM(w[f"kernel_{number}"], w[f"recurrent_kernel_{number}"], w[f"bias_{number}"])


def _recurrent(w: Weights, *between: Layer) -> list[Layer]:
    """Two LSTM layers with something between them, and a dense one."""
    last = Function(lambda y: y[:, -1])
    return [_lstm(w, 1), *between, _lstm(w, 2), last, Dense(w["kernel_3"], w["bias_3"])]


def _attention(w: Weights) -> list[Layer]:
    # Keras' Attention does not scale the products.
    attend = Function(lambda x: functional.scaled_dot_product_attention(x, x, x, scale=1.0))
    return [Embedding(w["table"]), *_recurrent(w, attend)]


def _attention_weights(w: Weights) -> list[torch.Tensor]:
    parts = ("query", "key", "value", "output")
    return [w[f"{part}_{kind}"] for part in parts for kind in ("kernel", "bias")]


def _transformer(w: Weights) -> list[Layer]:
    attend = MultiHeadSelfAttention(*_attention_weights(w))
    return [Embedding(w["table"]), *_recurrent(w, attend)]


class Positions(Layer):
    """Adds sines and cosines to sequences of at most so many steps."""

    def __init__(self, width: int, most_steps: int = 4096) -> None:
        super().__init__()
        table = torch.from_numpy(encoder.positions(most_steps, width))
        self.register_buffer("table", table, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.table[: x.shape[1]]


def _encoder(w: Weights) -> list[Layer]:
    blocks = [TransformerEncoder(each) for each in encoder.by_layer(w)]
    average = Function(lambda x: x.mean(dim=1))
    return [
        Embedding(w["table"]),
        Positions(w["table"].shape[1]),
        *blocks,
        average,
        Dense(w["kernel"], w["bias"]),
    ]


_NETWORKS = {
    "cnn": _cnn,
    "rnn": _recurrent,
    "attention_model": _attention,
    "transformer": _transformer,
    "encoder": _encoder,
}


def prepare(case: Case, arrays: dict[str, np.ndarray], mode: str = "eager") -> Side | None:
    """What PyTorch runs for a model: "eager", "compile" or, on a GPU, "graph"."""
    if case.op not in _NETWORKS:
        return None
    weights = {name: torch.from_numpy(array) for name, array in weights_of(arrays).items()}
    layers = _NETWORKS[case.op](weights)
    model = nn.Sequential(*layers).to(_device)  # which also puts an LSTM's weights in one piece
    network = torch.compile(model, dynamic=False) if mode == "compile" else model
    x = _on_host(arrays["x"])
    if case.direction == "predict":
        model.eval()
        return _prediction(lambda batch: torch.softmax(network(batch), dim=1), x, mode == "graph")
    labels = _on_host(arrays["labels"])
    optimizer = torch.optim.Adam(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=LEARNING_RATE,
        betas=(BETA_1, BETA_2),
        eps=corrected_epsilon(EPSILON, BETA_2),
        fused=True,
        capturable=mode == "graph",
    )

    def update(batch: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = functional.cross_entropy(network(batch), classes)
        loss.backward()
        optimizer.step()
        return loss.detach()

    if mode == "graph":
        update = torch_graphs.training(update, optimizer, x.to(_device), labels.to(_device))

    def step() -> float:
        return update(_to_device(x), _to_device(labels)).item()

    def arrays_of(loss: Any) -> list[np.ndarray]:
        gradients = [gradient for layer in layers for gradient in layer.gradients()]
        return [np.asarray(loss), *gradients, np.asarray(step())]

    return Side("torch", step, arrays_of)


def _prediction(
    predict: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, is_graph: bool
) -> Side:
    if is_graph:
        with torch.inference_mode():
            predict = torch_graphs.captured(predict, x.to(_device))
    return Side(
        "torch",
        lambda: predict(_to_device(x)).cpu(),
        lambda y: [y.numpy()],
        torch.inference_mode,
    )


def _on_host(array: np.ndarray) -> torch.Tensor:
    tensor = torch.from_numpy(array)
    return tensor if _device.type == "cpu" else tensor.pin_memory()


def _to_device(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(_device, non_blocking=True)
