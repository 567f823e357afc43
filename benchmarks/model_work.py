"""What whole networks cost at least; the conventions are those of `work.py`.

A training step computes each product once forward and twice backward; attention's two, once forward
and two and a half times backward, where the first of them is computed again. The first layer has no
gradient of its input, unless that is an embedding's.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from benchmarks import encoder
from benchmarks.cases import Case


class Products(NamedTuple):
    """FLOPs of a network's products, forward, and terms in its longest sums."""

    forward: float
    train: float
    terms: int


def count_products(case: Case) -> Products:
    """The products of a network."""
    return {"cnn": _cnn, "encoder": _encoder}.get(case.op, _recurrent)(case)


def weight_bytes(case: Case) -> float:
    """Bytes of a network's weights, all that a step of Adam goes through."""
    weights = (a for name, a in case.arguments.items() if name not in ("x", "labels"))
    return sum(argument.nbytes for argument in weights)


def bytes_to_predict(case: Case) -> float:
    """Bytes of the weights that a prediction reads: of a table only the rows that x names."""
    read = weight_bytes(case)
    if "table" in case.arguments:
        rows, columns = case.shape("table")
        read -= 4.0 * columns * (rows - rows_named(math.prod(case.shape("x")), rows))
    return read


def rows_named(count: int, rows: int) -> float:
    """How many different rows so many indices name that are drawn at random: the expectation."""
    return rows * (1 - (1 - 1 / rows) ** count)


def _cnn(case: Case) -> Products:
    """Two 3x3 convolutions and pools, two dense layers."""
    count, height, width, _ = case.shape("x")
    forward, first, terms = 0.0, 0.0, case.shape("kernel_3")[0]
    for layer in (1, 2):
        kernel = case.shape(f"kernel_{layer}")
        height, width = height - kernel[0] + 1, width - kernel[1] + 1
        layer_flops = 2.0 * count * height * width * math.prod(kernel)
        first = first or layer_flops
        terms = max(terms, count * height * width)
        forward += layer_flops
        height, width = height // 2, width // 2
    forward += sum(2.0 * count * math.prod(case.shape(f"kernel_{layer}")) for layer in (3, 4))
    return Products(forward, 3 * forward - first, terms)


def _recurrent(case: Case) -> Products:
    """Two LSTM layers over x (N, T, D) or embedded indices (N, T), one dense layer.

    What is between the LSTM layers, if anything: attention of one head, or of several with
    projections.
    """
    count, steps = case.shape("x")[:2]
    dense = 2.0 * count * math.prod(case.shape("kernel_3"))
    forward, train, terms = dense, 3 * dense, 0
    for layer in (1, 2):
        inputs, recurrent = case.shape(f"kernel_{layer}"), case.shape(f"recurrent_kernel_{layer}")
        products = 2.0 * count * steps * (math.prod(inputs) + math.prod(recurrent))
        forward += products
        train += 3 * products
        terms += sum(inputs) + recurrent[0] + count * steps
    if "table" not in case.arguments:
        train -= 2.0 * count * steps * math.prod(case.shape("kernel_1"))
    if case.op != "rnn":
        width = case.shape("recurrent_kernel_1")[0]
        attention = 4.0 * count * steps * steps * width
        forward += attention
        train += 3.5 * attention
        terms += steps
    if "query_kernel" in case.arguments:
        names = ("query_kernel", "key_kernel", "value_kernel", "output_kernel")
        projections = 2.0 * count * steps * sum(math.prod(case.shape(name)) for name in names)
        forward += projections
        train += 3 * projections
        terms += count * steps
    return Products(forward, train, terms)


def _encoder(case: Case) -> Products:
    """Attention with projections and a feed-forward network, several times; one dense layer."""
    count, steps = case.shape("x")
    width = case.shape("table")[1]
    dense = 2.0 * count * math.prod(case.shape("kernel"))
    forward, train, terms = dense, 3 * dense, steps
    for layer in encoder.by_layer(case.arguments):
        kernels = [each.shape for name, each in layer.items() if name.endswith("kernel")]
        products = 2.0 * count * steps * sum(math.prod(shape) for shape in kernels)
        attention = 4.0 * count * steps * steps * width
        forward += products + attention
        train += 3 * products + 3.5 * attention
        # A feature goes through these sums one after the other, a kernel's gradient at the end.
        terms += 2 * width + steps + layer["intermediate_bias"].shape[0] + count * steps
    return Products(forward, train, terms)
