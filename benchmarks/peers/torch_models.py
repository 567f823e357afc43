"""The article's networks in PyTorch: channels_last, fused Adam, inference mode."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.cases import Case
from benchmarks.harness import Side
from benchmarks.models import BETA_1, BETA_2, EPSILON, LEARNING_RATE, weights_of


def corrected_epsilon(epsilon: float, beta_2: float) -> float:
    """The epsilon that makes PyTorch's first step of Adam equal to Keras' and lamella's.

    These add it to the root of the second moment as it is, PyTorch to that of the corrected one.
    """
    return epsilon / math.sqrt(1 - beta_2)


class CNN(nn.Module):
    """Logits of the article's network for digits, from (N, 1, H, W) in channels_last."""

    def __init__(self, weights: list[np.ndarray]) -> None:
        super().__init__()
        filters_1, filters_2, units, classes = (len(bias) for bias in weights[1::2])
        self.conv_1 = nn.Conv2d(weights[0].shape[2], filters_1, 3)
        self.conv_2 = nn.Conv2d(filters_1, filters_2, 3)
        self.pool = nn.MaxPool2d(2)
        self.dense_1 = nn.Linear(len(weights[4]), units)
        self.dense_2 = nn.Linear(units, classes)
        with torch.no_grad():
            for own, given in zip(self.parameters(), weights, strict=True):
                own.copy_(_to_torch(given))
        self.to(memory_format=torch.channels_last)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(torch.relu_(self.conv_1(x)))
        x = self.pool(torch.relu_(self.conv_2(x)))
        # In channels_last memory this order of the axes flattens without a copy.
        x = x.permute(0, 2, 3, 1).flatten(1)
        return self.dense_2(torch.relu_(self.dense_1(x)))


def _to_torch(weight: np.ndarray) -> torch.Tensor:
    """Kernels (KH, KW, C, F) and (D, U) as (F, C, KH, KW) and (U, D)."""
    axes = {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}[weight.ndim]
    return torch.from_numpy(weight).permute(axes)


def _to_numpy(gradient: torch.Tensor) -> np.ndarray:
    axes = {1: (0,), 2: (1, 0), 4: (2, 3, 1, 0)}[gradient.ndim]
    return gradient.permute(axes).numpy().copy()


_MODELS = {"cnn": CNN}


def prepare(case: Case, arrays: dict[str, np.ndarray]) -> Side | None:
    """What PyTorch runs for a model."""
    if case.op not in _MODELS:
        return None
    model = _MODELS[case.op](weights_of(arrays))
    x = torch.from_numpy(arrays["x"]).permute(0, 3, 1, 2)
    if case.direction == "predict":
        model.eval()
        return Side(
            "torch",
            lambda: torch.softmax(model(x), dim=1),
            lambda y: [y.numpy()],
            torch.inference_mode,
        )
    labels = torch.from_numpy(arrays["labels"])
    optimizer = torch.optim.Adam(
        model.parameters(),
        lr=LEARNING_RATE,
        betas=(BETA_1, BETA_2),
        eps=corrected_epsilon(EPSILON, BETA_2),
        fused=True,
    )

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    def arrays_of(loss: Any) -> list[np.ndarray]:
        gradients = [_to_numpy(parameter.grad) for parameter in model.parameters()]
        return [np.asarray(loss), *gradients, np.asarray(step())]

    return Side("torch", step, arrays_of)
