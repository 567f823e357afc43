"""What a case costs at least: floating-point operations, and bytes that have to move.

Conventions. A product and its sum are 2 FLOPs. A convolution has 2 N OH OW F KH KW C/groups, each
of its two large gradients as many again (a gradient not asked for is not counted); biases and
activations count nothing. Attention has 4 N A S L E forward, half of it if causal, and two and a
half times as many backward, where the scores are computed again. Bytes: every array that has to be
read or written, once, whatever an algorithm really does. Pointwise work (exp, comparisons) counts
nothing: such ops are measured against memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks import ragged
from benchmarks.cases import Case
from benchmarks.model_work import bytes_to_predict, count_products, rows_named, weight_bytes

Shape = tuple[int, ...]


class Work(NamedTuple):
    """`terms` is the number of products or terms in the longest sum, for the tolerance."""

    flops: float
    bytes_read: float
    bytes_written: float
    terms: int


class _Op(NamedTuple):
    """How an op's cost follows from its shapes."""

    result: Callable[[Case], Shape]
    flops: Callable[[Case], float] = lambda case: 0.0  # of the forward pass
    terms: Callable[[Case], tuple[int, int]] = lambda case: (1, 1)  # forward, backward
    backward_flops: Callable[[Case], float] | None = None  # if not the wanted large gradients
    saved: tuple[str, ...] = ()  # besides dy, what the backward pass has to read ("y": the result)


def result_shape(case: Case) -> Shape:
    """Shape of the op's (first) result, which is that of its gradient dy."""
    return _OPS[case.op].result(case)


def work(case: Case) -> Work:
    """The least a case can cost."""
    if case.direction in ("train", "predict"):
        return _model(case)
    if case.op == "adam_":
        (size,) = case.shape("param")
        return Work(0.0, 16.0 * size, 12.0 * size, 1)
    if case.op == "embedding":
        return _embedding(case)
    op = _OPS[case.op]
    # With a residual the sum is a result too.
    results = 2 if "residual" in case.arguments else 1
    result = 4.0 * math.prod(op.result(case))
    forward_terms, backward_terms = op.terms(case)
    read = sum(_nbytes(case, name) for name in case.arguments)
    forward = Work(op.flops(case), read, results * result, forward_terms)
    if case.direction == "forward":
        return forward
    read = result + sum(
        result if name == "y" else _nbytes(case, name)
        for name in op.saved
        if name == "y" or name in case.arguments
    )
    written = sum(case.arguments[name].nbytes for name in case.wanted)
    large = sum(name in case.wanted for name in ("x", "kernel", "a", "b"))
    flops = op.backward_flops(case) if op.backward_flops else large * op.flops(case)
    backward = Work(flops, read, written, backward_terms)
    return backward if case.direction == "backward" else _both(forward, backward, result)


def _nbytes(case: Case, name: str) -> float:
    """Bytes of an argument that have to be read: not those of steps behind a sequence's end."""
    share = ragged.valid_share(case) if name == "x" else 1.0
    return share * case.arguments[name].nbytes


def _both(forward: Work, backward: Work, result: float) -> Work:
    """One pass after the other: each argument is read once, and the result's gradient."""
    return Work(
        forward.flops + backward.flops,
        forward.bytes_read + result,
        forward.bytes_written + backward.bytes_written,
        max(forward.terms, backward.terms),
    )


# -- results ----------------------------------------------------------------------------------


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def _windows(size: int, taps: int, stride: int, dilation: int, padding: Any) -> int:
    """Number of windows along one axis; padding is "same", "valid" or a number for each side."""
    if padding == "same":
        return -(-size // stride)
    around = 0 if padding == "valid" else padding
    return (size + 2 * around - (taps - 1) * dilation - 1) // stride + 1


def _image_windows(case: Case, sizes: tuple[int, int], strides: Any) -> tuple[int, int]:
    _, height, width, _ = case.shape("x")
    strides, dilations = _pair(strides), _pair(case.options.get("dilation", 1))
    padding = _pair(case.options["padding"]) if "padding" in case.options else ("valid",) * 2
    if isinstance(case.options.get("padding"), str):
        padding = (case.options["padding"],) * 2
    rows, columns = map(_windows, (height, width), sizes, strides, dilations, padding)
    return rows, columns


def _conv2d_result(case: Case) -> Shape:
    kernel = case.shape("kernel")
    windows = _image_windows(case, (kernel[0], kernel[1]), case.options.get("strides", 1))
    return (case.shape("x")[0], *windows, kernel[-1])


def _conv1d_result(case: Case) -> Shape:
    count, length, _ = case.shape("x")
    taps, _, filters = case.shape("kernel")
    option = case.options.get
    windows = _windows(
        length, taps, option("strides", 1), option("dilation", 1), option("padding", "valid")
    )
    return (count, windows, filters)


def _conv2d_transpose_result(case: Case) -> Shape:
    count, height, width, _ = case.shape("x")
    taps_h, taps_w, filters, _ = case.shape("kernel")
    stride_h, stride_w = _pair(case.options.get("strides", 1))
    crop_h, crop_w = _pair(case.options.get("padding", 0))
    rows = (height - 1) * stride_h - 2 * crop_h + taps_h
    columns = (width - 1) * stride_w - 2 * crop_w + taps_w
    return (count, rows, columns, filters)


def _pool_result(case: Case) -> Shape:
    pool = case.options.get("pool_size", 2)
    windows = _image_windows(case, _pair(pool), case.options.get("strides", pool))
    return (case.shape("x")[0], *windows, case.shape("x")[-1])


def _same(argument: str) -> Callable[[Case], Shape]:
    return lambda case: case.shape(argument)


# -- FLOPs and lengths of sums -----------------------------------------------------------------


def _convolution_flops(case: Case) -> float:
    result, kernel = _OPS[case.op].result(case), case.shape("kernel")
    return 2.0 * math.prod(result) * math.prod(kernel[:-1])


def _convolution_terms(case: Case) -> tuple[int, int]:
    result, kernel = _OPS[case.op].result(case), case.shape("kernel")
    positions = math.prod(result[:-1])  # summed in the kernel's gradient
    return math.prod(kernel[:-1]), max(positions, math.prod(kernel[:-2]) * kernel[-1])


def _transpose_flops(case: Case) -> float:
    return 2.0 * math.prod(case.shape("x")) * math.prod(case.shape("kernel")[:-1])


def _transpose_terms(case: Case) -> tuple[int, int]:
    taps_h, taps_w, filters, channels = case.shape("kernel")
    positions = math.prod(case.shape("x")[:-1])
    return taps_h * taps_w * channels, max(positions, taps_h * taps_w * filters)


def _dense_flops(case: Case) -> float:
    return 2.0 * math.prod(case.shape("x")) * case.shape("kernel")[-1]


def _dense_terms(case: Case) -> tuple[int, int]:
    features, units = case.shape("kernel")
    return features, max(math.prod(case.shape("x")[:-1]), units)


def _matmul_flops(case: Case) -> float:
    return 2.0 * math.prod(case.shape("a")) * case.shape("b")[-1]


def _matmul_terms(case: Case) -> tuple[int, int]:
    (rows, depth), (_, columns) = case.shape("a"), case.shape("b")
    return depth, max(rows, columns)


def _pool_terms(case: Case) -> tuple[int, int]:
    area = math.prod(_pair(case.options.get("pool_size", 2)))
    return area, area


def _image_terms(case: Case) -> tuple[int, int]:
    _, height, width, _ = case.shape("x")
    return height * width, 1


def _row_terms(argument: str) -> Callable[[Case], tuple[int, int]]:
    return lambda case: (case.shape(argument)[-1],) * 2


def _column_terms(case: Case) -> tuple[int, int]:
    return (math.prod(case.shape("x")[:-1]),) * 2


def _step_flops(case: Case) -> float:
    weights = math.prod(case.shape("kernel")) + math.prod(case.shape("recurrent_kernel"))
    return 2.0 * case.shape("x")[0] * weights


def _step_terms(case: Case) -> tuple[int, int]:
    return (case.shape("x")[1] + case.shape("h")[1],) * 2


def _layer_terms(case: Case) -> tuple[int, int]:
    *lead, size = case.shape("x")
    return size, max(size, math.prod(lead))  # rows are summed in gamma's gradient


def _group_terms(case: Case) -> tuple[int, int]:
    images, *lead, channels = case.shape("x")
    run = math.prod(lead) * channels // case.options["groups"]
    return run, max(run, images * math.prod(lead))


def _recurrent_result(case: Case) -> Shape:
    return (*case.shape("x")[:2], case.shape("recurrent_kernel")[0])


def _recurrent_flops(case: Case) -> float:
    # Backward has as many again for what comes before a step (x and h), and for the two kernels.
    batch, steps, _ = case.shape("x")
    weights = math.prod(case.shape("kernel")) + math.prod(case.shape("recurrent_kernel"))
    return 2.0 * batch * steps * ragged.valid_share(case) * weights


def _recurrent_terms(case: Case) -> tuple[int, int]:
    (batch, steps, inputs), (units, columns) = case.shape("x"), case.shape("recurrent_kernel")
    return inputs + units, max(batch * steps, columns) + inputs + units


def _attention_flops(case: Case) -> float:
    """Two products, over the pairs of a query and a key that count.

    With causal attention that is half of them. Keys behind the end of a sequence cost nothing; a
    mask with holes saves nothing, as no kernel steps over single pairs.
    """
    count, queries, heads, size = case.shape("query")
    keys, features = case.shape("key")[1], case.shape("value")[3]
    share = 0.5 if case.options.get("causal") else 1.0
    share *= _share_before_the_end(case)
    return 2.0 * count * heads * queries * keys * (size + features) * share


def _share_before_the_end(case: Case) -> float:
    is_padding = "mask" in case.arguments and case.arguments["mask"].mask == "prefix"
    return float(case.array("mask").mean()) if is_padding else 1.0


def _attention_terms(case: Case) -> tuple[int, int]:
    size, queries, keys = case.shape("query")[3], case.shape("query")[1], case.shape("key")[1]
    return size + keys, size + keys + max(queries, keys)


def _projection_flops(case: Case) -> float:
    places = math.prod(case.shape("query")[:2])
    kernels = [a for name, a in case.arguments.items() if name.endswith("_kernel")]
    return 2.0 * places * sum(math.prod(kernel.shape) for kernel in kernels)


def _heads_flops(case: Case) -> float:
    """Attention between the projections, of a sequence to itself."""
    count, steps, _ = case.shape("query")
    _, heads, size = case.shape("query_kernel")
    return 2.0 * count * heads * steps * steps * (size + case.shape("value_kernel")[2])


def _multi_head_terms(case: Case) -> tuple[int, int]:
    count, steps, width = case.shape("query")
    return 2 * width + steps, 4 * width + 2 * steps + count * steps


def _additive_flops(case: Case, score_products: int, value_products: int) -> float:
    """So many products with each hidden unit, and with each value; their tanh counts nothing."""
    count, queries, units = case.shape("query")
    _, keys, features = case.shape("value")
    products = score_products * units + value_products * features
    return 2.0 * count * queries * keys * products * _share_before_the_end(case)


def _additive_terms(case: Case) -> tuple[int, int]:
    count, queries, units = case.shape("query")
    _, keys, features = case.shape("value")
    return units + keys, units + 2 * keys + features + count * queries * keys


_PRODUCT = ("x", "kernel")
_INTO_HEADS = ("query_kernel", "key_kernel", "value_kernel", "output_kernel")
_RECURRENT = ("x", "kernel", "recurrent_kernel")
_OPS: dict[str, _Op] = {
    "matmul": _Op(
        lambda case: (case.shape("a")[0], case.shape("b")[1]),
        _matmul_flops,
        _matmul_terms,
        saved=("a", "b"),
    ),
    "dense": _Op(
        lambda case: (*case.shape("x")[:-1], case.shape("kernel")[-1]),
        _dense_flops,
        _dense_terms,
        saved=_PRODUCT,
    ),
    "conv2d": _Op(_conv2d_result, _convolution_flops, _convolution_terms, saved=_PRODUCT),
    "conv1d": _Op(_conv1d_result, _convolution_flops, _convolution_terms, saved=_PRODUCT),
    "conv2d_transpose": _Op(
        _conv2d_transpose_result, _transpose_flops, _transpose_terms, saved=_PRODUCT
    ),
    "max_pool2d": _Op(_pool_result, terms=_pool_terms),
    "avg_pool2d": _Op(_pool_result, terms=_pool_terms),
    "global_avg_pool2d": _Op(
        lambda case: (case.shape("x")[0], case.shape("x")[-1]), terms=_image_terms
    ),
    **{
        name: _Op(_recurrent_result, _recurrent_flops, _recurrent_terms, saved=_RECURRENT)
        for name in ("lstm", "gru", "simple_rnn")
    },
    **{name: _Op(_same("h"), _step_flops, _step_terms) for name in ("lstm_step", "gru_step")},
    "attention": _Op(
        lambda case: (*case.shape("query")[:3], case.shape("value")[3]),
        _attention_flops,
        _attention_terms,
        # The scores are computed again.
        lambda case: 2.5 * _attention_flops(case),
        ("query", "key", "value", "mask", "y"),
    ),
    "additive_attention": _Op(
        lambda case: (*case.shape("query")[:2], case.shape("value")[2]),
        lambda case: _additive_flops(case, 1, 1),
        _additive_terms,
        # The scores again, and gradients of query, key and scale; of weights and values.
        lambda case: _additive_flops(case, 4, 2),
        ("query", "value", "key", "scale", "mask"),
    ),
    "multi_head_attention": _Op(
        lambda case: (*case.shape("query")[:2], case.shape("output_kernel")[2]),
        lambda case: _projection_flops(case) + _heads_flops(case),
        _multi_head_terms,
        lambda case: 2 * _projection_flops(case) + 2.5 * _heads_flops(case),
        ("query", *_INTO_HEADS),
    ),
    "rotary_embedding": _Op(_same("x"), saved=("cos", "sin")),
    "softmax": _Op(_same("x"), terms=_row_terms("x"), saved=("y",)),
    "batch_norm": _Op(_same("x"), terms=_column_terms, saved=("x", "gamma")),
    "layer_norm": _Op(_same("x"), terms=_layer_terms, saved=("x", "gamma")),
    "rms_norm": _Op(_same("x"), terms=_layer_terms, saved=("x", "gamma")),
    "group_norm": _Op(_same("x"), terms=_group_terms, saved=("x", "gamma")),
    "embedding": _Op(lambda case: (*case.shape("indices"), case.shape("table")[1])),
    "relu": _Op(_same("x"), saved=("x",)),
    "gelu": _Op(_same("x"), saved=("x",)),
    "dropout": _Op(_same("x")),
    "add": _Op(_same("a")),
    "sparse_categorical_crossentropy": _Op(
        lambda case: case.shape("y_pred")[:1],
        terms=_row_terms("y_pred"),
        saved=("y_pred", "labels"),
    ),
}


def _model(case: Case) -> Work:
    products, inputs = count_products(case), case.arguments["x"].nbytes
    if case.direction == "predict":
        (classes,) = case.shape(next(reversed(case.arguments)))  # of the last layer's bias
        results = 4.0 * case.shape("x")[0] * classes
        return Work(products.forward, bytes_to_predict(case) + inputs, results, products.terms)
    # Adam reads weights, gradients and two slots, and writes all but the gradients.
    weights = weight_bytes(case)
    return Work(products.train, 4 * weights + inputs, 3 * weights, products.terms)


def _embedding(case: Case) -> Work:
    """Only rows that an index names are read; all of the gradient is written."""
    rows, columns = case.shape("table")
    count = math.prod(case.shape("indices"))
    result, numbers = 4.0 * count * columns, 8.0 * count
    if case.direction == "forward":
        return Work(0.0, numbers + 4.0 * rows_named(count, rows) * columns, result, 1)
    return Work(0.0, numbers + result, 4.0 * rows * columns, 1 + 4 * count // rows)
