"""Cases for every op: shapes and options that together cross all that changes the maths.

`CASES` is a list of (op, shapes, options); a shape is None where the array is. `make_arrays` draws
the arrays, float64 and small enough for finite differences. Tests of the kernels may use the same
cases in float32.
"""

from __future__ import annotations

import numpy as np

from . import activations
from .attention_cases import ATTENTION, all_attention_cases, attention_arrays
from .recurrent_cases import RECURRENT, recurrent_cases

ACTIVATIONS = ("relu", "gelu", "silu", "sigmoid", "tanh", "elu", "leaky_relu", "softplus")
POOLS = ("max_pool2d", "avg_pool2d")


def distinct(rng, shape):
    """Elements far from each other and from 0: no step crosses a kink or changes a maximum."""
    size = int(np.prod(shape))
    return rng.permutation((np.arange(size) - size // 2 + 0.3) * 2.0 / size).reshape(shape)


def make_arrays(op, shapes, options, rng):
    """Random arrays of the shapes, such as the op can differentiate: away from kinks and poles."""
    if "max_pool" in op:
        return [distinct(rng, shapes[0])]
    if op in ATTENTION:
        return attention_arrays(op, shapes, rng)
    arrays = [None if shape is None else rng.standard_normal(shape) for shape in shapes]
    if op == "batch_norm" and shapes[4] is not None:
        arrays[4] = rng.uniform(0.2, 2.0, shapes[4])
    if op in ACTIVATIONS:
        arrays[0] = distinct(rng, shapes[0]) * 4.0
    if op in (*RECURRENT, "lstm_cell"):
        # Kernels such that preactivations are near 1: no chain of steep gates.
        first = 3 if op == "lstm_cell" else 1
        terms = shapes[first][0] + shapes[first + 1][0]
        arrays[first : first + 2] = [kernel / terms**0.5 for kernel in arrays[first : first + 2]]
    if op == "embedding":
        arrays[0] = rng.integers(0, shapes[1][0], shapes[0])
    if op.endswith("crossentropy"):
        if not options.get("from_logits"):
            arrays[0] = rng.uniform(0.1, 0.9, shapes[0])
            # Far outside the clipping range, where the gradient has to be 0.
            arrays[0][0, 1] = -0.1
            arrays[0][1, 0] = 1.2 if op.startswith("binary") else -0.2
        if op.startswith("sparse"):
            arrays[1] = rng.integers(0, shapes[0][1], shapes[1])
            arrays[1][0] = 1
        else:
            arrays[1] = rng.uniform(0.0, 1.0, shapes[1])
    return arrays


def conv_cases(op, image, channels, filters):
    """Everything that changes the convolution's maths, alone and in awkward company."""
    transposed = op == "conv2d_transpose"

    def case(size, bias=True, multiplier=1, **options):
        groups = options.get("groups", 1)
        c, f = (channels, channels * multiplier) if groups == channels else (channels, filters)
        kernel = (*size, f // groups, c) if transposed else (*size, c // groups, f)
        return op, [(2, *image, c), kernel, (f,) if bias else None], options

    yield case((3, 2))
    yield case((1, 1), bias=False, strides=2)
    yield case((3, 3), padding="same")
    yield case((2, 4), padding="same", strides=(2, 3))
    yield case((3, 2), padding="same", strides=2, dilation=2)
    yield case((2, 2), padding="same", strides=3)
    yield case((3, 3), padding=1, strides=2)
    yield case((3, 2), padding=(2, 1), dilation=(1, 2))
    yield case((2, 3), padding=((1, 0), (0, 2)), strides=(1, 2))
    yield case((3, 3), padding="same", groups=2)
    yield case((3, 2), bias=False, groups=channels, strides=2, padding=((2, 1), (1, 0)))
    yield case((2, 3), groups=channels, multiplier=3, dilation=2, activation="silu")
    if transposed:
        for padding in ("valid", "same", 1, ((1, 0), (2, 1))):
            yield case((3, 4), padding=padding, strides=3, output_padding=(1, 2))
        yield case((3, 3), padding="same", strides=2, output_padding=1, dilation=2, groups=2)
        yield case((2, 1), padding=(0, 0), strides=4, output_padding=3)
        yield case((1, 2), padding="valid", strides=3, activation="tanh")
    for name in activations.FUSED:
        yield case((2, 2), activation=name)


def conv1d_cases():
    for options in (
        {},
        {"strides": 2, "padding": "same"},
        {"padding": "causal"},
        {"padding": "causal", "strides": 3, "dilation": 2, "groups": 2, "activation": "gelu"},
        {"padding": 2, "dilation": 2},
        {"padding": (1, 3), "groups": 4, "strides": 2},
    ):
        kernel = (3, 4 // options.get("groups", 1), 8)
        yield "conv1d", [(2, 9, 4), kernel, (8,)], options
    yield "conv1d", [(3, 7, 2), (2, 2, 3), None], {"activation": "relu"}


def pool_cases():
    """Windows that overlap, leave gaps, hang over the end and lie partly or wholly in padding."""
    for op in POOLS:
        counts = ({}, {"count_include_pad": True}) if op == "avg_pool2d" else ({},)
        for count in counts:
            for ceil_mode in (False, True):
                for options in (
                    {},
                    {"pool_size": 3, "strides": (1, 2)},
                    {"pool_size": (3, 2), "padding": "same", "strides": 2},
                    {"pool_size": (2, 4), "padding": "same", "strides": (3, 3)},
                    {"pool_size": 3, "padding": 1, "strides": 2},
                    {"pool_size": (2, 3), "padding": (1, 0), "dilation": (3, 2), "strides": 2},
                    {"pool_size": 2, "padding": ((0, 2), (1, 2)), "strides": 4},
                ):
                    shape = (2, 7, 8, 3)
                    yield op, [shape], {**options, **count, "ceil_mode": ceil_mode}
    yield "global_avg_pool2d", [(2, 5, 3, 4)], {}
    yield "global_max_pool2d", [(2, 5, 3, 4)], {}


def pointwise_cases():
    for op in ACTIVATIONS:
        yield op, [(3, 5, 7)], {}
    yield "gelu", [(40,)], {"approximate": False}
    yield "elu", [(40,)], {"alpha": 0.3}
    yield "leaky_relu", [(40,)], {"negative_slope": 0.05}
    for op in ("softmax", "log_softmax"):
        for axis in (-1, 0, 1):
            yield op, [(3, 5, 4)], {"axis": axis}
    for op in ("add", "multiply"):
        for shapes in (
            [(3, 4), (3, 4)],
            [(2, 1, 4), (3, 1)],
            [(4,), (2, 3, 4)],
            [(), (2, 3)],
            [(1, 1, 2), (5, 1, 1)],
        ):
            yield op, shapes, {}
    yield "concatenate", [(2, 3), (2, 1), (2, 4)], {}
    yield "concatenate", [(2, 3, 4), (5, 3, 4)], {"axis": 0}
    yield "concatenate", [(2, 3, 4)], {"axis": -2}
    kept = np.random.default_rng(7).random((5, 9)) < 0.6
    yield "dropout", [(5, 9)], {"rate": 0.4, "kept": kept}


def product_cases():
    for name in activations.FUSED:
        yield "dense", [(5, 3), (3, 4), (4,)], {"activation": name}
    yield "dense", [(2, 3, 5), (5, 4), None], {}
    yield "dense", [(6,), (6, 4), (4,)], {"activation": "relu"}
    gate = [(3, 4), (4,)]
    for name in activations.FUSED:
        yield "feed_forward", [(5, 3), (3, 4), (4, 2), (4,), (2,), *gate], {"activation": name}
    yield "feed_forward", [(2, 5, 3), (3, 4), (4, 2), (4,), (2,), None, None], {}
    yield "feed_forward", [(3,), (3, 4), (4, 2), None, None, (3, 4), None], {"activation": "silu"}
    for batch_a, batch_b in (((), ()), ((3,), (3,)), ((2, 1), (3,)), ((), (2,)), ((4, 1), (1, 3))):
        for transpose_a in (False, True):
            for transpose_b in (False, True):
                a = (5, 2) if transpose_a else (2, 5)
                b = (3, 5) if transpose_b else (5, 3)
                options = {"transpose_a": transpose_a, "transpose_b": transpose_b}
                yield "matmul", [(*batch_a, *a), (*batch_b, *b)], options


def embedding_cases():
    """Rows used often, and rows never used."""
    for indices in ((11,), (2, 7), (3, 1, 4), (), (0,), (2, 0)):
        yield "embedding", [indices, (6, 3)], {}
    yield "embedding", [(5,), (1, 4)], {}


def normalization_cases():
    for gamma in (None, (3,)):
        for beta in (None, (3,)):
            yield "batch_norm", [(2, 4, 5, 3), gamma, beta, None, None], {"epsilon": 0.01}
            yield "batch_norm", [(7, 3), gamma, beta, (3,), (3,)], {}
            yield "layer_norm", [(4, 5, 3), gamma, beta], {"epsilon": 0.01}
            channels = [(2, 3, 2, 6), gamma and (6,), beta and (6,)]
            for groups in (1, 2, 3, 6):
                yield "group_norm", channels, {"groups": groups}
        yield "rms_norm", [(4, 5, 3), gamma], {"epsilon": 0.01}
    # Any axes, in any order; gamma and beta follow x's. One element alone; nothing at all.
    x = (2, 3, 4, 5)
    for axis, shared in (
        ((-2, -1), (4, 5)),
        ((-1, 1), (3, 5)),
        ((0, 1, 2, 3), x),
        (0, (2,)),
        (-3, (3,)),
    ):
        yield "layer_norm", [x, shared, shared], {"axis": axis}
        yield "rms_norm", [x, shared], {"axis": axis, "epsilon": 1e-3}
    for shape in ((3, 1), (7,), (0, 5), (2, 0, 4)):
        yield "layer_norm", [shape, shape[-1:], shape[-1:]], {}
        yield "rms_norm", [shape, shape[-1:]], {}
    for shape in ((5, 4), (0, 3, 4), (2, 0, 4)):
        yield "group_norm", [shape, (4,), (4,)], {"groups": 2, "epsilon": 0.5}


def crossentropy_cases():
    weights = np.array([0.5, 2.0, 1.0, 0.0, 3.0])
    for from_logits in (False, True):
        for label_smoothing in (0.0, 0.2):
            options = {"from_logits": from_logits, "label_smoothing": label_smoothing}
            yield "binary_crossentropy", [(7, 5), (7, 5)], options
            for class_weights in (None, weights):
                weighted = {**options, "class_weights": class_weights}
                yield "categorical_crossentropy", [(7, 5), (7, 5)], weighted
                for ignore_index in (None, 1):
                    sparse = {**weighted, "ignore_index": ignore_index}
                    yield "sparse_categorical_crossentropy", [(7, 5), (7,)], sparse


CASES = [
    *conv_cases("conv2d", (7, 8), 4, 6),
    *conv_cases("conv2d_transpose", (3, 4), 4, 6),
    *conv1d_cases(),
    *pool_cases(),
    *pointwise_cases(),
    *product_cases(),
    *normalization_cases(),
    *crossentropy_cases(),
    *recurrent_cases(),
    *all_attention_cases(),
    *embedding_cases(),
]


def torch_has(op, options):
    """Whether `torch_peer` can compute the case: PyTorch lacks some paddings and dilations."""
    if op in POOLS:
        dilated_average = op == "avg_pool2d" and "dilation" in options
        return options.get("padding", 0) in (0, 1, (1, 0)) and not dilated_average
    if op == "conv2d_transpose":
        return isinstance(options.get("padding", "valid"), int)
    return op != "dropout"
