"""Every op once, forward and backward, on small odd shapes of a device, compared with the CPU.

    compute-sanitizer --tool memcheck python tests/sanitize_ops.py
    python tests/sanitize_ops.py --device simt lstm softmax

Small, because compute-sanitizer slows kernels down by a factor of hundreds; odd, so that tiles,
vectors and warps have remainders. It needs neither pytest nor PyTorch. The exit status is 1 where
an op raises or its results differ from the CPU's by more than `TOLERANCE` of the largest.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from lamella import devices, ops

# Two float32 sums of a few hundred terms in different orders; a tile too many or too few is 1.
TOLERANCE = 1e-4

_random = np.random.default_rng(7)


def floats(*shape: int) -> np.ndarray:
    """Of the size of weights, so that nothing saturates."""
    return (0.5 * _random.standard_normal(shape)).astype(np.float32)


def flags(*shape: int) -> np.ndarray:
    drawn: np.ndarray = _random.random(shape) < 0.6
    return drawn


def whole(below: int, *shape: int) -> np.ndarray:
    return _random.integers(0, below, shape)


class Call(NamedTuple):
    """An op's arguments; arrays among the options go to the device too."""

    op: str
    arrays: tuple[np.ndarray | None, ...]
    options: Mapping[str, Any] = MappingProxyType({})


def calls() -> Iterator[Call]:
    """What is run, op by op."""
    yield from pointwise_calls()
    yield from product_calls()
    yield from image_calls()
    yield from normalization_calls()
    yield from recurrent_calls()
    yield from attention_calls()
    yield from loss_calls()


def pointwise_calls() -> Iterator[Call]:
    for op in ("relu", "gelu", "silu", "sigmoid", "tanh", "elu", "leaky_relu", "softplus"):
        yield Call(op, (floats(3, 41),))
    for op in ("add", "multiply"):
        yield Call(op, (floats(3, 41), floats(3, 41)))
        yield Call(op, (floats(3, 1, 41), floats(5, 1)))
    yield Call("concatenate", (floats(3, 5), floats(3, 4)))
    yield Call("dropout", (floats(7, 33),), {"rate": 0.3, "seed": 5})
    yield Call("embedding", (whole(11, 3, 7), floats(11, 13)))
    for shape, axis in (((5, 33), -1), ((2, 3000), -1), ((5, 33), 0)):
        for op in ("softmax", "log_softmax"):
            yield Call(op, (floats(*shape),), {"axis": axis})
    yield Call("rotary_embedding", (floats(2, 5, 3, 6), floats(5, 3), floats(5, 3)))


def product_calls() -> Iterator[Call]:
    for m, k, n in ((1, 37, 45), (67, 33, 70), (130, 9, 131)):
        yield Call("dense", (floats(m, k), floats(k, n), floats(n)), {"activation": "relu"})
    yield Call("matmul", (floats(3, 35, 18), floats(18, 67)))
    yield Call(
        "matmul", (floats(3, 18, 35), floats(3, 33, 18)), {"transpose_a": True, "transpose_b": True}
    )
    weights = (floats(13, 21), floats(21, 13), floats(21), floats(13))
    yield Call("feed_forward", (floats(2, 5, 13), *weights), {"activation": "gelu"})


def image_calls() -> Iterator[Call]:
    for kernel, options in (
        ((3, 3, 5, 7), {"padding": "same"}),
        ((3, 2, 5, 7), {"strides": 2, "padding": 1}),
        ((1, 1, 5, 7), {}),
        ((3, 3, 1, 5), {"groups": 5, "dilation": 2, "padding": "same"}),
    ):
        x, bias = floats(2, 11, 9, 5), floats(kernel[-1])
        yield Call("conv2d", (x, floats(*kernel), bias), {"activation": "relu", **options})
    yield Call("conv1d", (floats(2, 13, 5), floats(3, 5, 7), floats(7)), {"padding": "causal"})
    x, kernel = floats(2, 5, 4, 7), floats(3, 3, 5, 7)
    yield Call("conv2d_transpose", (x, kernel, floats(5)), {"strides": 2, "padding": 1})
    for op in ("max_pool2d", "avg_pool2d"):
        yield Call(op, (floats(2, 9, 7, 5),), {"pool_size": 3, "strides": 2, "padding": 1})
        yield Call(op, (floats(2, 9, 7, 5),), {"pool_size": 2})
    for op in ("global_avg_pool2d", "global_max_pool2d"):
        yield Call(op, (floats(3, 7, 5, 9),))


def normalization_calls() -> Iterator[Call]:
    for size in (13, 1030):
        x, gamma, beta = floats(5, size), floats(size), floats(size)
        yield Call("layer_norm", (x, gamma, beta))
        yield Call("layer_norm", (x, gamma, beta, floats(5, size)))
        yield Call("rms_norm", (x, gamma))
    images, gamma, beta = floats(3, 5, 4, 6), floats(6), floats(6)
    yield Call("batch_norm", (images, gamma, beta))
    yield Call("batch_norm", (images, gamma, beta, floats(6), np.abs(floats(6)) + 0.5))
    yield Call("group_norm", (images, gamma, beta), {"groups": 3})


def recurrent_calls() -> Iterator[Call]:
    count, steps, features, units = 3, 5, 7, 9
    lengths = np.array([5, 2, 4])
    for op, gates, states in (("simple_rnn", 1, 1), ("gru", 3, 1), ("lstm", 4, 2)):
        weights = floats(features, gates * units), floats(units, gates * units)
        bias = floats(2, 3 * units) if op == "gru" else floats(gates * units)
        initial = tuple(floats(count, units) for _ in range(states))
        x = floats(count, steps, features)
        yield Call(op, (x, *weights, bias))
        yield Call(op, (x, *weights, bias, *initial), {"lengths": lengths})
        yield Call(op, (x, *weights, bias), {"mask": flags(count, steps), "go_backwards": True})
    weights = floats(features, 4 * units), floats(units, 4 * units), floats(4 * units)
    yield Call("lstm_cell", (*(floats(count, n) for n in (features, units, units)), *weights))
    # Projection and layer normalization.
    projected = floats(features, 4 * units), floats(5, 4 * units), floats(4 * units)
    gammas = floats(4 * units), floats(4 * units), floats(units), floats(units)
    rest = (None, None, floats(units, 5), *gammas)
    yield Call("lstm", (floats(count, steps, features), *projected, *rest))


def attention_calls() -> Iterator[Call]:
    query, key, value = floats(2, 11, 4, 9), floats(2, 13, 2, 9), floats(2, 13, 2, 7)
    for options in (
        {},
        {"causal": True, "window": (3, 2)},
        {"softcap": 5.0, "alibi_slopes": np.abs(floats(4)), "key_lengths": np.array([13, 4])},
        {"dropout": 0.2, "seed": 3, "return_lse": True},
        {"return_weights": True},
    ):
        yield Call("attention", (query, key, value), options)
    yield Call("attention", (query, key, value, flags(2, 1, 11, 13), floats(4, 11, 13)))
    wide = floats(1, 70, 1, 64)
    yield Call("attention", (wide, floats(1, 90, 1, 64), floats(1, 90, 1, 64)), {"causal": True})
    decoded = floats(1, 600, 2, 32), floats(1, 600, 2, 32)
    yield Call("attention", (floats(1, 1, 4, 32), *decoded))
    arrays = floats(2, 5, 9), floats(2, 7, 6), floats(2, 7, 9), floats(9), flags(2, 5, 7)
    yield Call("additive_attention", arrays)
    kernels = (floats(6, 2, 4), floats(6, 2, 4), floats(6, 2, 3), floats(2, 3, 5))
    biases = (floats(2, 4), floats(2, 4), floats(2, 3), floats(5))
    x = floats(2, 7, 6)
    yield Call("multi_head_attention", (x, x, x, *kernels, *biases), {"causal": True})


def loss_calls() -> Iterator[Call]:
    logits = {"from_logits": True, "label_smoothing": 0.1}
    yield Call("sparse_categorical_crossentropy", (floats(9, 37), whole(37, 9)), logits)
    soft = np.abs(floats(9, 37))
    soft /= soft.sum(axis=1, keepdims=True)
    yield Call("categorical_crossentropy", (floats(9, 37), soft), logits)
    yield Call("binary_crossentropy", (floats(9, 5), flags(9, 5).astype(np.float32)), logits)


def run(call: Call, module: Any) -> list[np.ndarray]:
    """Results, then gradients, of one call; on the CPU where there is no module."""

    def there(value: Any) -> Any:
        return module.asarray(value) if module and isinstance(value, np.ndarray) else value

    def back(value: Any) -> Any:
        return value.numpy() if module else value

    arrays = [there(array) for array in call.arrays]
    options = {name: there(value) for name, value in call.options.items()}
    results, pullback = getattr(ops, call.op).vjp(*arrays, **options)
    results = results if isinstance(results, tuple) else (results,)
    found = [back(result) for result in results]
    gradients = [there(_cotangent(place, array)) for place, array in enumerate(found)]
    # Statistics, and weights and sums of exponentials that are returned beside, have no gradient.
    if call.op == "batch_norm" or call.options.keys() & {"return_lse", "return_weights"}:
        gradients[1:] = [None] * (len(gradients) - 1)
    return found + [back(g) for g in pullback(*gradients) if g is not None]


def _cotangent(place: int, like: np.ndarray) -> np.ndarray:
    return np.random.default_rng(place).standard_normal(like.shape, dtype=np.float32)


def optimizer_steps(module: Any) -> list[np.ndarray]:
    """What optimizers leave in arrays that they change."""
    rng = np.random.default_rng(3)
    arrays = [np.abs(rng.standard_normal(1033, dtype=np.float32)) for _ in range(5)]
    param, grad, m, v, largest = [module.asarray(a) for a in arrays] if module else arrays
    betas = {"beta_1": 0.9, "beta_2": 0.99, "epsilon": 1e-7}
    ops.adam_(param, grad, m, v, largest, step=2, learning_rate=0.1, **betas)
    ops.sgd_(param, grad, m, learning_rate=0.1, momentum=0.9)
    ops.rmsprop_(param, grad, v, None, None, learning_rate=0.1)
    ops.clip_(grad, -0.5, 0.5)
    ops.scale_(grad, 0.5)
    ops.accumulate_(grad, param)
    norm = np.float32(ops.squared_norm(grad))
    return [norm, *((each.numpy() if module else each) for each in (param, grad, m, v, largest))]


def difference(found: list[np.ndarray], expected: list[np.ndarray]) -> float:
    """The largest over all arrays, relative to each one's largest; infinite for what is no number.

    An array that is small beside the others, like the gradient of a key's bias, which is zero but
    for rounding, is compared with a hundredth of theirs.
    """
    worst = 0.0
    least = max(float(np.abs(want).max(initial=0.0)) for want in expected) / 100
    for got, want in zip(found, expected, strict=True):
        if got.shape != want.shape:
            return np.inf
        if want.size:
            error = np.abs(np.float64(got) - want).max() / max(np.abs(want).max(), least)
            worst = max(worst, float(error) if np.isfinite(error) else np.inf)
    return worst


def main(arguments: list[str] | None = None) -> int:
    """Run the selected ops; the exit status is 1 where one fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ops", nargs="*", metavar="OP", help="only these")
    parser.add_argument("--device", choices=["cuda", "simt"], default="cuda")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no op after so many")
    options = parser.parse_args(arguments)
    module = devices.module_of(options.device)
    began = time.monotonic()
    failed, left_out = 0, []
    steps = [(call.op, call) for call in calls()] + [("optimizers", None)]
    if unknown := set(options.ops) - {name for name, _ in steps}:
        parser.error(f"not among the ops here: {', '.join(sorted(unknown))}")
    for name, call in steps:
        if options.ops and name not in options.ops:
            continue
        if time.monotonic() - began > options.seconds:
            left_out.append(name)
            continue
        try:
            found = optimizer_steps(module) if call is None else run(call, module)
            module.synchronize()
        except Exception as error:
            failed += 1
            print(f"{name}: {type(error).__name__}: {error}", flush=True)
            continue
        expected = optimizer_steps(None) if call is None else run(call, None)
        error = difference(found, expected)
        is_wrong = not error <= TOLERANCE
        failed += is_wrong
        settings = "" if call is None else f" {', '.join(call.options)}"
        print(f"{name}{settings}: {error:.1e}{' WRONG' if is_wrong else ''}", flush=True)
    if left_out:
        print(f"left out after {options.seconds:g} s: {', '.join(dict.fromkeys(left_out))}")
    print(f"{failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
