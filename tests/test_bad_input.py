"""What dense, matmul and the convolutions refuse: before anything is computed, and in words.

What the other ops refuse stands in their own tests. Layouts are the subject of test_products.py and
test_repeated_elements.py, empty batches and NaN of test_batches.py.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap

import numpy as np
import op_checks
import pytest

from lamella import ops


def ones(*shape):
    return np.ones(shape, np.float32)


X, KERNEL = (2, 5, 6, 4), (2, 3, 4, 8)
X1, KERNEL1 = (2, 5, 4), (2, 4, 8)
TRANSPOSED = (2, 3, 8, 4)

# (op, shapes, options, what the message says)
SHAPES = [
    ("conv2d", [X[1:], KERNEL], {}, "x must have 4 axes (batch, height, width, channels), got"),
    ("conv2d", [(1, *X), KERNEL], {}, "x must have 4 axes"),
    ("conv2d", [(), KERNEL], {}, "x must have 4 axes (batch, height, width, channels)"),
    ("conv2d", [X, KERNEL[1:]], {}, "kernel must have 4 axes (height, width, channels / groups,"),
    (
        "conv2d",
        [X, (2, 3, 5, 8)],
        {},
        "kernel must have channels / groups = 4 on its last axis but one, "
        "got kernel (2, 3, 5, 8) for x (2, 5, 6, 4) and groups=1",
    ),
    ("conv2d", [X, KERNEL], {"groups": 2}, "kernel must have channels / groups = 2"),
    ("conv2d", [X, (2, 3, 1, 6)], {"groups": 4}, "got groups=4 for 4 channels and 6 filters"),
    ("conv2d", [X, KERNEL], {"groups": 3}, "groups must divide the channels and the filters"),
    ("conv2d", [X, KERNEL, (7,)], {}, "bias must have shape (8,) (one value a filter), got (7,)"),
    ("conv2d", [X, KERNEL, (8, 1)], {}, "bias must have shape (8,)"),
    ("conv2d", [X, KERNEL, ()], {}, "bias must have shape (8,)"),
    ("conv2d", [X, (0, 3, 4, 8)], {}, "kernel must not be empty, got shape (0, 3, 4, 8)"),
    ("conv2d", [X, (2, 3, 4, 0)], {}, "kernel must not be empty"),
    ("conv2d", [(2, 5, 6, 0), KERNEL], {}, "x must have at least one channel, got shape"),
    ("conv2d", [(2, 0, 6, 4), KERNEL], {}, "the input's size must be at least 1, got 0 (height)"),
    ("conv2d", [(2, 5, 0, 4), KERNEL], {"padding": 5}, "got 0 (width)"),
    (
        "conv2d",
        [X, (6, 3, 4, 8)],
        {},
        "the window is larger than the padded input: height 6 (6 taps, dilation 1) "
        "against 5 (5 + padding 0 + 0)",
    ),
    ("conv2d", [X, KERNEL], {"dilation": (1, 3)}, "larger than the padded input: width 7"),
    ("conv2d", [X, (9, 3, 4, 8)], {"padding": ((1, 2), (0, 0))}, "against 8 (5 + padding 1 + 2)"),
    ("conv1d", [X, KERNEL1], {}, "x must have 3 axes (batch, time, channels)"),
    ("conv1d", [X1, KERNEL], {}, "kernel must have 3 axes"),
    ("conv1d", [(2, 0, 4), KERNEL1], {"padding": "causal"}, "got 0 (time)"),
    ("conv1d", [X1, (6, 4, 8)], {}, "the window is larger than the padded input: time 6"),
    ("conv1d", [X1, KERNEL1, (4,)], {}, "bias must have shape (8,)"),
    ("conv1d", [X1, (2, 3, 8)], {}, "kernel must have channels / groups = 4"),
    (
        "conv2d_transpose",
        [X, KERNEL],
        {},
        "kernel must have as many channels on its last axis as x, "
        "got kernel (2, 3, 4, 8) for x (2, 5, 6, 4)",
    ),
    ("conv2d_transpose", [X, KERNEL[1:]], {}, "(height, width, filters / groups, channels)"),
    ("conv2d_transpose", [X, TRANSPOSED], {"groups": 3}, "got groups=3 for 4 channels"),
    ("conv2d_transpose", [X, TRANSPOSED, (4,)], {}, "bias must have shape (8,)"),
    ("conv2d_transpose", [X, TRANSPOSED, (8,)], {"groups": 2}, "bias must have shape (16,)"),
    ("conv2d_transpose", [(2, 5, 0, 4), TRANSPOSED], {}, "x must not be empty along its width"),
    ("conv2d_transpose", [(2, 5, 6, 0), (2, 3, 8, 0)], {}, "kernel must not be empty"),
    ("conv2d_transpose", [X, (2, 3, 0, 4)], {}, "kernel must not be empty"),
    ("conv2d_transpose", [X, TRANSPOSED], {"padding": 3}, "along its height, which has 6 pos"),
    ("conv2d_transpose", [X, TRANSPOSED], {"padding": (0, 4)}, "along its width, which has 8"),
    ("conv1d", [X1[1:], KERNEL1], {}, "x must have 3 axes (batch, time, channels), got shape (5,"),
    ("conv1d", [X1, (0, 4, 8)], {}, "kernel must not be empty, got shape (0, 4, 8)"),
    ("conv1d", [(2, 5, 0), KERNEL1], {}, "x must have at least one channel"),
    ("conv1d", [X1, KERNEL1], {"groups": 3}, "groups must divide the channels and the filters"),
    ("conv1d", [X1, KERNEL1], {"dilation": 5}, "larger than the padded input: time 6"),
    ("conv2d_transpose", [X[1:], TRANSPOSED], {}, "x must have 4 axes"),
    ("conv2d_transpose", [X, (0, 3, 8, 4)], {}, "kernel must not be empty, got shape (0, 3, 8, 4)"),
    ("conv2d_transpose", [(2, 0, 6, 4), TRANSPOSED], {}, "x must not be empty along its height"),
    ("dense", [(), (1, 2)], {}, "x must have at least 1 axis (..., D), got shape ()"),
    ("dense", [(3, 4), (4,)], {}, "kernel must have 2 axes (D, U), got shape (4,)"),
    ("dense", [(3, 4), (1, 4, 2)], {}, "kernel must have 2 axes"),
    ("dense", [(3, 4), (5, 2)], {}, "kernel must have 4 rows, the size of x's last axis"),
    ("dense", [(3, 4), (4, 2), (3,)], {}, "bias must have shape (2,) (one value a unit), got (3,)"),
    ("dense", [(3, 4), (4, 2), (1, 2)], {}, "bias must have shape (2,)"),
    ("dense", [(3, 0), (0, 2)], {}, "kernel must not be empty, got (0, 2)"),
    ("dense", [(3, 4), (4, 0)], {}, "kernel must not be empty"),
    ("matmul", [(4,), (4, 2)], {}, "a and b must have at least 2 axes, got shapes (4,) and (4, 2)"),
    ("matmul", [(3, 4), ()], {}, "a and b must have at least 2 axes"),
    ("matmul", [(3, 4), (5, 2)], {}, "agree in the axis summed over, got 4 and 5"),
    ("matmul", [(3, 4), (4, 2)], {"transpose_a": True}, "got 3 and 4"),
    ("matmul", [(3, 4), (4, 2)], {"transpose_b": True}, "got 4 and 2"),
    ("matmul", [(2, 3, 4), (3, 4, 2)], {}, "got shapes (2, 3, 4) and (3, 4, 2)"),
    ("matmul", [(0, 3, 4), (2, 4, 2)], {}, "do not broadcast"),
]


@pytest.mark.parametrize(("name", "shapes", "options", "message"), SHAPES, ids=str)
def test_shapes(name, shapes, options, message):
    arrays = [ones(*shape) for shape in shapes]
    exact = "^" + re.escape(f"{name}: ")
    op_checks.check_refused_before_allocating(
        name, arrays, options, ValueError, f"{exact}.*{re.escape(message)}"
    )


ARRAYS = {
    "conv2d": (ones(*X), ones(*KERNEL)),
    "conv1d": (ones(*X1), ones(*KERNEL1)),
    "conv2d_transpose": (ones(*X), ones(*TRANSPOSED)),
    "dense": (ones(3, 4), ones(4, 8)),
    "matmul": (ones(3, 4), ones(4, 8)),
}
CONVOLUTIONS = ("conv2d", "conv1d", "conv2d_transpose")
TOO_LONG = 2**63
# NumPy's arrays have __index__, which raises unless they hold a single integer; a lone surrogate is
# no text in UTF-8; and a message is cut at 80 characters, not within one of them.
NOT_COUNTS = [0, -1, 1.0, True, None, "2", b"2", {}, [], (1,) * 3, (1, 0), (1.5, 1), TOO_LONG]
NOT_COUNTS += [np.array([2, 2]), np.array(2.0), (1, np.array([1, 2])), "\udc80", "\u20ac" * 200]
NOT_PADDINGS = ["SAME", "full", "", -1, 1.5, True, None, (), (1,), (1, 2, 3), (1, -1), (1, (2, 3))]
NOT_PADDINGS += [((1, 2), (3,)), ((1, 2), (3, -4)), ((0, 0),) * 3, b"same", {}, TOO_LONG]
NOT_PADDINGS += [np.array([1, 1]), "\udc80", "valid\0", "\u20ac" * 200, np.array("same")]
NOT_ACTIVATIONS = ["RELU", "relu ", "", "softmax", 1, True, b"relu", ["relu"], len, float("nan")]
NOT_ACTIVATIONS += ["\udc80", "relu\0", "\u20ac" * 200, np.array([1, 2])]

OPTIONS = [
    *[
        (name, option, value)
        for name in CONVOLUTIONS
        for option in ("strides", "dilation")
        for value in NOT_COUNTS
    ],
    *[
        (name, "groups", value)
        for name in CONVOLUTIONS
        for value in (0, -1, 1.0, True, None, "1", (1,), TOO_LONG, np.array([1]), "\udc80")
    ],
    *[(name, "padding", value) for name in CONVOLUTIONS for value in NOT_PADDINGS],
    *[(name, "activation", v) for name in (*CONVOLUTIONS, "dense") for v in NOT_ACTIVATIONS],
    ("conv2d", "padding", "causal"),
    ("conv2d_transpose", "padding", "causal"),
    ("conv1d", "padding", ((1, 1), (1, 1))),
    *[("conv2d_transpose", "output_padding", v) for v in (1, -1, (0, 1), 0.0, True, "0", (0,))],
    *[
        ("matmul", option, v)
        for option in ("transpose_a", "transpose_b")
        for v in (1, 0, None, "T")
    ],
]


@pytest.mark.parametrize(("name", "option", "value"), OPTIONS, ids=ascii)
def test_options(name, option, value):
    if (name, option) == ("conv1d", "padding") and repr(value) == "(1, -1)":
        text = r"\(1, -1\)"
    else:
        text = "padding|" + option
    op_checks.check_refused_before_allocating(
        name, ARRAYS[name], {option: value}, ValueError, f"^{name}: .*({text})"
    )


class Unreadable:
    def __repr__(self):
        return "\udc80" * 100


class Interrupting:
    def __index__(self):
        raise KeyboardInterrupt


def test_arguments_with_code_of_their_own():
    for name in CONVOLUTIONS:
        for option in ("strides", "padding", "dilation", "groups", "activation"):
            with pytest.raises(ValueError, match=rf"^{name}: .*{option}.*\\udc80.*\.\.\.$"):
                getattr(ops, name)(*ARRAYS[name], **{option: Unreadable()})
        with pytest.raises(KeyboardInterrupt):
            getattr(ops, name)(*ARRAYS[name], strides=Interrupting())


@pytest.mark.parametrize(
    "value", [np.int64(2), np.uint8(2), (2, np.int32(2)), [2, 2], np.array(2)], ids=repr
)
def test_integers_of_numpy_and_lists_are_options_too(value):
    for name in ("conv2d", "conv2d_transpose"):
        for option in ("strides", "padding"):
            expected = getattr(ops, name)(*ARRAYS[name], **{option: 2})
            y = getattr(ops, name)(*ARRAYS[name], **{option: value})
            np.testing.assert_array_equal(y, expected)


def test_messages():
    """A few to the letter."""
    x, kernel = ARRAYS["conv2d"]
    for call, message in (
        (
            lambda: ops.conv2d(x.astype(np.float64), kernel),
            "conv2d: x must be float32, got an array of float64",
        ),
        (lambda: ops.conv2d(x, kernel.tolist()), "conv2d: kernel must be a NumPy array, got list"),
        (lambda: ops.conv2d(x, kernel, strides=0), "conv2d: strides must be at least 1, got 0"),
        (
            lambda: ops.conv2d(x, kernel, strides=(1, 2, 3)),
            "conv2d: strides must be an integer or two integers, got (1, 2, 3)",
        ),
        (
            lambda: ops.conv2d(x, kernel, strides=np.array([2, 2])),
            "conv2d: strides must be an integer or two integers, got array([2, 2])",
        ),
        (
            lambda: ops.conv2d(x, kernel, padding="\udc80"),
            'conv2d: padding must be "valid", "same", an integer, (height, width) or '
            "((top, bottom), (left, right)) of integers >= 0, got '\\udc80'",
        ),
        (
            lambda: ops.conv1d(*ARRAYS["conv1d"], padding="full"),
            'conv1d: padding must be "valid", "same", "causal", an integer or (before, after), '
            "got 'full'",
        ),
        (
            lambda: ops.conv1d(*ARRAYS["conv1d"], padding=(1, -2)),
            "conv1d: padding must not be negative, got (1, -2)",
        ),
        (
            lambda: ops.conv2d_transpose(*ARRAYS["conv2d_transpose"], output_padding=1),
            "conv2d_transpose: output_padding must lie in [0, max(strides, dilation)), got 1",
        ),
        (
            lambda: ops.dense(*ARRAYS["dense"], activation="swish"),
            "dense: activation must be None or one of linear, relu, leaky_relu, elu, sigmoid, "
            "tanh, softplus, silu, gelu, gelu_tanh; got 'swish'",
        ),
        (
            lambda: ops.matmul(*ARRAYS["matmul"], transpose_a=1),
            "matmul: transpose_a must be True or False, got 1",
        ),
    ):
        with pytest.raises((TypeError, ValueError)) as raised:
            call()
        assert str(raised.value) == message


def test_missing_and_unknown_arguments():
    for name in ARRAYS:
        for function in (getattr(ops, name), getattr(ops, name).vjp):
            with pytest.raises(TypeError, match="unknown"):
                function(*ARRAYS[name], unknown=1)
            with pytest.raises(TypeError, match="missing"):
                function(ARRAYS[name][0])
    with pytest.raises(TypeError, match="needs"):
        ops.dense(*ARRAYS["dense"], needs=(True, True, True))


# Sizes near 2^63, which must neither wrap around nor be allocated: (op, shapes, options).
ONE = (1, 1, 1, 1)
HUGE = 2**63 - 1
OVERFLOWS = [
    ("conv2d", [(0, 2**30, 2**28, 1), ONE], {}),
    ("conv2d", [(0, 2**20, 2**10, 1), (1, 1, 1, 2**29)], {}),
    ("conv2d", [ONE, ONE], {"padding": HUGE}),
    ("conv2d", [ONE, ONE], {"padding": 2**62}),
    ("conv2d", [ONE, ONE], {"padding": 2**40}),
    ("conv2d", [ONE, ONE], {"padding": ((HUGE, HUGE), (0, 0))}),
    ("conv2d", [ONE, ONE], {"padding": 2**29, "strides": 2**29}),
    ("conv2d", [ONE, (2, 2, 1, 64)], {"padding": 2**29, "dilation": 2**29}),
    ("conv2d", [ONE, (3, 1, 1, 1)], {"dilation": HUGE}),
    ("conv2d", [ONE, (3, 1, 1, 1)], {"dilation": HUGE, "padding": "same"}),
    ("conv2d", [ONE, (2, 1, 1, 1)], {"dilation": HUGE, "padding": "same"}),
    ("conv1d", [(1, 1, 1), (3, 1, 1)], {"padding": "causal", "dilation": HUGE}),
    ("conv1d", [(1, 1, 1), (2, 1, 1)], {"padding": "causal", "dilation": HUGE}),
    ("conv1d", [(1, 1, 1), (1, 1, 1)], {"padding": (HUGE, 1)}),
    ("conv2d_transpose", [(0, 2**30, 2**28, 1), ONE], {}),
    ("conv2d_transpose", [(1, 2, 2, 1), ONE], {"strides": HUGE}),
    ("conv2d_transpose", [(1, 2, 2, 1), ONE], {"strides": 2**62}),
    ("conv2d_transpose", [(1, 2, 2, 1), ONE], {"strides": 2**62, "padding": "same"}),
    ("conv2d_transpose", [ONE, (2, 2, 1, 1)], {"dilation": HUGE}),
    ("conv2d_transpose", [ONE, (3, 1, 1, 1)], {"dilation": 2**62}),
    ("conv2d_transpose", [ONE, ONE], {"padding": ((HUGE, HUGE), (0, 0))}),
    ("conv2d_transpose", [(1, 3, 3, 1), ONE], {"padding": ((HUGE, HUGE - 2), (0, 0))}),
    ("conv2d_transpose", [ONE, (2, 2, 1, 1)], {"dilation": 2**40, "padding": 2**39}),
    ("conv2d_transpose", [ONE, ONE], {"strides": 2**62, "output_padding": 2**62 - 1}),
    ("dense", [(0, 2**58, 4), (4, 32)], {}),
    ("matmul", [(2**40, 0), (0, 2**40)], {}),
    ("matmul", [(2**40, 1, 1, 0), (2**40, 0, 1)], {}),
    ("add", [(2**40, 1, 0), (1, 2**40, 0)], {}),
    ("multiply", [(2**40, 1, 0), (1, 2**40, 0)], {}),
    ("concatenate", [(2**60, 0), (2**60, 0)], {"axis": 0}),
]


@pytest.mark.parametrize(("name", "shapes", "options"), OVERFLOWS, ids=str)
def test_sizes_that_overflow(name, shapes, options):
    arrays = [np.zeros(shape, np.float32) for shape in shapes]
    op_checks.check_refused_before_allocating(
        name, arrays, options, ValueError, f"^{name}: .*(overflows 63 bits|leaves nothing)"
    )


TOO_LARGE = [
    ("conv2d", [(1, 1, 2**21, 1), (1, 1, 1, 2**21)], {}),
    ("conv2d", [ONE, ONE], {"padding": 2**21}),
    ("conv1d", [(1, 2**21, 1), (1, 1, 2**21)], {}),
    ("conv2d_transpose", [(1, 1, 2**21, 1), (1, 1, 2**21, 1)], {}),
    ("conv2d_transpose", [ONE, ONE], {"strides": 2**21}),
    ("dense", [(2**21, 1), (1, 2**21)], {}),
    ("matmul", [(2**21, 1), (1, 2**21)], {}),
    ("matmul", [(2**42, 0), (0, 1)], {}),
]


@pytest.mark.parametrize(("name", "shapes", "options"), TOO_LARGE, ids=str)
def test_results_that_are_too_large(name, shapes, options):
    arrays = [np.zeros(shape, np.float32) for shape in shapes]
    op_checks.check_refused_before_allocating(
        name, arrays, options, MemoryError, rf"^{name}: out of memory, .* allocate \d+ bytes"
    )


def test_strides_that_are_never_taken():
    """One window: any stride gives the same, also where its products would overflow."""
    for name in CONVOLUTIONS[:2]:
        x, kernel = ARRAYS[name]
        size = x.shape[1:-1]
        kernel = np.ones((*size, *kernel.shape[-2:]), np.float32)
        y, pullback = getattr(ops, name).vjp(x, kernel)
        expected = [y, *pullback(y)]
        for stride in (7, 2**31, 2**32 + 1, 2**61 + 1, 2**62, HUGE):
            op_checks.assert_same_bits(
                op_checks.forward_and_backward(name, (x, kernel, None), {"strides": stride}, y),
                expected,
            )
    x, kernel = ones(1, 1, 1, 3), ones(2, 3, 4, 3)
    for stride in (4, 2**40 + 1, HUGE):
        y = ops.conv2d_transpose(x, kernel, strides=stride, padding=0)
        np.testing.assert_array_equal(y, np.full((1, 2, 3, 4), 3, np.float32))


def test_scratch_memory_that_is_not_there():
    """A kernel that cannot have its scratch memory raises too, and leaves the pool usable."""
    script = textwrap.dedent("""
        import resource
        resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
        import numpy as np
        from lamella import ops
        x, kernel = np.ones((1, 1, 1, 1), np.float32), np.ones((2, 2, 1, 1), np.float32)
        far = {"dilation": 2**15, "padding": 2**14}
        row = np.ones((1, 1, 1), np.float32), np.ones((2, 1, 1), np.float32)
        calls = [(name, (x, kernel), far) for name in ("conv2d", "conv2d_transpose")]
        calls.append(("conv1d", row, {"dilation": 2**30, "padding": 2**29}))
        for name, arrays, options in calls:
            for function in (getattr(ops, name), getattr(ops, name).vjp):
                try:
                    function(*arrays, **options)
                except MemoryError as error:
                    print(error)
        print(ops.conv2d(np.ones((1, 3, 3, 1), np.float32), kernel).sum())
    """)
    environment = {**os.environ, "LAMELLA_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env=environment,
    )
    lines = done.stdout.splitlines()
    assert lines[-1] == "16.0"
    named = re.compile(r"(\w+): out of memory, could not allocate \d+ bytes")
    names = [named.fullmatch(line)[1] for line in lines[:-1]]
    assert names == ["conv2d"] * 2 + ["conv2d_transpose"] * 2 + ["conv1d"] * 2
