"""PyTorch's activations by lamella's names."""

from __future__ import annotations

import torch
from torch.nn import functional

ACTIVATIONS = {
    None: lambda x: x,
    "linear": lambda x: x,
    "relu": functional.relu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "silu": functional.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "elu": functional.elu,
    "leaky_relu": lambda x: functional.leaky_relu(x, 0.2),
    "softplus": functional.softplus,
}
