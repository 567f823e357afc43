"""How far a kernel may be from the float64 reference: one table, (dtype, op, direction) -> bound.

An entry is a function of K, the number of terms summed into one element, and gives
`Bound(rtol, atol)`. An element is right when

    |actual - expected| <= rtol |expected| + atol scale

The scale is the magnitude of what was summed: max |expected| where the caller names none. Pass
`scale` where the results are much smaller than what was summed: where there are only a few results,
where terms cancel, and where a fused tanh or sigmoid flattens large preactivations z (max |z|; best
draw kernels with deviation 1 / sqrt(K), so that z is near 1). For K random terms t, sqrt(K) max |t|
is right. Pointwise ops have an absolute atol (scale 1), where they have one at all.

Units. EPS = 2^-23 is the spacing of float32 above 1. One rounding has a relative error of at most
EPS / 2; "n ulp" in simd/math.h is at most n EPS relative.

Sums. A sum of K terms in any order is off by at most K EPS / 2 sum|t|; nobody meets that bound with
random data. Roundings are independent, so the error of one running sum is a random walk. Measured
on random products, positive or not, the largest error among thousands of float32 sums taken one
term after the other is 0.25 to 0.4 EPS sqrt(K) of the largest sum, K = 2 to 50000; several
accumulators (vector lanes, unrolling, blocks of a depth) divide it further. So
`summed(K)` = EPS (2 + sqrt(K)) holds for every reasonable order, with a factor of 2.5 to spare, and
fails for what is not rounding: at K = 1152 (3 x 3 x 128) it is 4.3e-6 of the largest result, where
one dropped term makes 5e-2, operands rounded to bfloat16 2e-3 and to TF32 3e-4. Transformed
algorithms (Winograd, FFT) have larger errors and would need entries of their own.

Kinks. Where relu or its relatives are fused, a preactivation within rounding of 0 may fall on the
other side, which changes the gradient by all of dy. Keep test data away from there; no tolerance
covers it.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import NamedTuple

import numpy as np

EPS = 2.0**-23
TINY = 2.0**-126  # smallest normal float32: below it kernels may flush to zero


class Bound(NamedTuple):
    rtol: float
    atol: float
    absolute: bool = False  # atol is not multiplied by max |expected|


def summed(k: float) -> float:
    """Relative to the sums' magnitude; see the module's comment."""
    return EPS * (2.0 + sqrt(k))


def exact(k: float) -> Bound:
    return Bound(0.0, 0.0)


def pointwise(rtol: float, atol: float = TINY) -> Callable[[float], Bound]:
    """`rtol` and `atol` in absolute terms, independent of K."""
    return lambda k: Bound(rtol, atol, absolute=True)


def product(k: float) -> Bound:
    # Products and one sum. A fused activation adds its own few ulp (rtol) and has slope <= 1.13;
    # in backward pass K = forward terms + backward terms, since f'(z) inherits z's error.
    return Bound(4 * EPS, summed(k))


def mean(k: float) -> Bound:
    # The sum of K, divided: relative to the largest mean.
    return Bound(EPS, summed(k))


# K terms in the sum: the windows that overlap (max_pool2d backward), broadcast repetitions (add).
# One term is copied, and must be exact.
def copied_or_summed(k: float) -> Bound:
    return exact(k) if k <= 1 else Bound(0.0, summed(k))


def softmax_forward(k: float) -> Bound:
    # exp: 2 ulp and the rounded argument, whose error EPS |x - max| / 2 becomes relative: 8 EPS for
    # |x - max| = 16. The sum has positive terms, error EPS sqrt(K) / 4 at most in practice, and one
    # division. Where |x - max| > 16 the probability itself is below 1.2e-7 and r exp(-r) falls with
    # r, so 1e-6 EPS absolute holds the rest.
    return Bound(EPS * (12 + sqrt(k) / 4), 1e-6 * EPS)


def softmax_backward(k: float) -> Bound:
    # y (dy - sum(dy y)): y's relative error again, and the difference's, relative to max |dy y|.
    # Pass scale = max |dy y| where one probability is near 1 in every row.
    return Bound(EPS * (12 + sqrt(k) / 4), EPS * (8 + sqrt(k) / 4))


def log_softmax_forward(k: float) -> Bound:
    # (x - max) - log(sum): relative error of the sum = absolute error of its log; the rounded
    # difference costs EPS |x - max| / 2, close to EPS |result| / 2 where that is not small.
    return Bound(4 * EPS, EPS * (4 + sqrt(k) / 4), absolute=True)


def log_softmax_backward(k: float) -> Bound:
    # dy - y sum(dy): the sum of K gradients of either sign, times y's relative error.
    return Bound(EPS * (12 + sqrt(k) / 4), summed(k))


def crossentropy_forward(k: float) -> Bound:
    # As log_softmax, but the loss may be near 0 while the logits are not: (x - max) of magnitude
    # 16 is rounded by 4 EPS and enters twice. From probabilities: log's 2 ulp, and the relative
    # error of p / row sum. Soft labels add K products of one sign, relative to the loss.
    return Bound(EPS * (8 + sqrt(k) / 4), EPS * (8 + sqrt(k) / 4), absolute=True)


def crossentropy_backward(k: float) -> Bound:
    # p - t: p's relative error as in softmax; -t / p from probabilities: 1 / p and the row sum.
    # Relative to the largest gradient, which with logits is near max |dy|.
    return Bound(EPS * (8 + sqrt(k) / 4), EPS * (8 + sqrt(k) / 4))


def normalization_forward(k: float) -> Bound:
    # K elements share their statistics. The mean of K terms is off by EPS sqrt(K) / 4 of |mean|,
    # which counts as |mean| / deviation in y (pass scale where that is above 1); the variance's sum
    # has positive terms. Both are far better in blocks. The unbiased variance in place of the
    # biased would be off by 1 / (2 K) in y: noticed up to K = 20000.
    return Bound(8 * EPS, EPS * (8 + sqrt(k) / 4))


def normalization_backward(k: float) -> Bound:
    # dgamma and dbeta are sums of K terms of either sign; dx subtracts two such sums over K.
    return Bound(8 * EPS, summed(k) + 8 * EPS)


def activation_backward(k: float) -> Bound:
    # f'(x) from the saved output cancels: y (1 - y) and 1 - y^2 are off by a few EPS in absolute
    # terms, however small they are, and max |expected| may be a quarter of max |dy| (sigmoid).
    # A derivative dropped to bfloat16 or a fast exp (1e-5) is ten times that and more.
    return Bound(8 * EPS, 12 * EPS)


def update(k: float) -> Bound:
    # A handful of roundings; the parameter itself is rounded at its own magnitude, which hides the
    # step's error where |step| << |param|: test from small parameters. 1 - beta taken in float32
    # (off by 2e-5 at beta_2 = 0.999) is noticed in the slot v.
    return Bound(8 * EPS, 4 * EPS)


def centered_update(k: float) -> Bound:
    # square - mean^2 cancels: a factor of 8 where the gradients are steady.
    return Bound(64 * EPS, 8 * EPS)


def recurrent(k: float) -> Bound:
    # K = D + U terms make a preactivation. Its error passes gates of slope <= 1 into h and c, which
    # the next step multiplies by kernels of deviation 1 / sqrt(K) (draw them so: larger ones make
    # errors grow from step to step, and with tanh alone without end) and by f or z < 1. So errors
    # do not pile up: measured on float32 of PyTorch, 1 to 3000 steps, K = 2 to 557, they are 0.1 to
    # 0.5 EPS (2 + sqrt(K)) of the largest result. 4 EPS more are a gate's tanh or sigmoid.
    # In backward K = forward terms + those of the gradient: N T for a kernel, g U for x and h0.
    return Bound(0.0, 4 * EPS + summed(k))


def attended(k: float) -> Bound:
    # K = E + L: the terms of a score, whose error becomes a relative one of p, and those of the sum
    # over keys; with projections their D and A Ev, too. In backward also Ev, another L, and the
    # gradient's own terms: L for the query, S for key and value times the heads that share one, N S
    # or N L for kernels and biases, N S L for additive scores' scale. Measured on float32 of
    # PyTorch, scores near 1, S and L to 1500, E to 256: at most half of this. The log-sum-exp is
    # within EPS. Scores of magnitude m > 8 are off by m times as much as those near 1; pass scale.
    # So must whoever looks at the gradient of key_bias, which moves all scores of a row alike: it
    # is a sum of terms that cancel, 0 but for rounding.
    return Bound(0.0, 8 * EPS + summed(k))


def turned(k: float) -> Bound:
    # Two products and their sum: EPS / 2 (|x1 cos| + |x2 sin|) and EPS / 2 |y|. The former is at
    # most |(x1, x2)| |(cos, sin)| = |(y1, y2)| <= sqrt(2) max |y|.
    return Bound(0.51 * EPS, 0.71 * EPS)


def squared_norm(k: float) -> Bound:
    # Accumulated in float64, where squares of float32 are exact: summation error only.
    return Bound(2.0**-53 * (2 + sqrt(k)), 0.0)


# (forward, backward) by op; None where there is no such direction.
_FLOAT32 = {
    # Sums of products; K = D, or KH KW C / groups, and so on for the gradients.
    "dense": (product, product),
    "matmul": (product, product),
    # K = D + F, and Dout and rows for the gradients.
    "feed_forward": (product, product),
    "conv2d": (product, product),
    "conv1d": (product, product),
    "conv2d_transpose": (product, product),
    "simple_rnn": (recurrent, recurrent),
    "gru": (recurrent, recurrent),
    "lstm": (recurrent, recurrent),
    "lstm_cell": (recurrent, recurrent),
    # A row is a copy; in backward K is how often it was taken.
    "embedding": (exact, copied_or_summed),
    # A maximum is a copy.
    "max_pool2d": (exact, copied_or_summed),
    "global_max_pool2d": (exact, exact),
    # K positions a window; in backward K windows a position, each dy / count.
    "avg_pool2d": (mean, mean),
    "global_avg_pool2d": (mean, mean),
    # ulp claims of simd/math.h, plus one for each further operation. These are relative down to
    # the smallest normal number: log(1 + exp(x)) or exp(x) - 1 taken naively fails.
    "relu": (exact, exact),
    # negative_slope rounded to float32, then one product.
    "leaky_relu": (pointwise(1.01 * EPS), pointwise(1.01 * EPS)),
    "sigmoid": (pointwise(4 * EPS), activation_backward),
    "tanh": (pointwise(4 * EPS), activation_backward),
    "softplus": (pointwise(6 * EPS), activation_backward),
    "elu": (pointwise(8 * EPS), activation_backward),
    # x sigmoid(x): TINY is for sigmoid, and |x| < 128 there.
    "silu": (pointwise(6 * EPS, 128 * TINY), activation_backward),
    # x Phi(x): exp(-x^2 / 2) turns the rounding of x^2 / 2 into a relative error that grows with x,
    # of values that shrink: 2 EPS of 1 at most. At x = -3 (-4e-3) that still is 6e-5 relative.
    "gelu": (pointwise(6 * EPS, 2 * EPS), activation_backward),
    "softmax": (softmax_forward, softmax_backward),
    "log_softmax": (log_softmax_forward, log_softmax_backward),
    "sparse_categorical_crossentropy": (crossentropy_forward, crossentropy_backward),
    "categorical_crossentropy": (crossentropy_forward, crossentropy_backward),
    "binary_crossentropy": (crossentropy_forward, crossentropy_backward),
    "batch_norm": (normalization_forward, normalization_backward),
    "layer_norm": (normalization_forward, normalization_backward),
    "rms_norm": (normalization_forward, normalization_backward),
    "group_norm": (normalization_forward, normalization_backward),
    # 1 / (1 - rate) rounded, then one product.
    "dropout": (pointwise(1.01 * EPS), pointwise(1.01 * EPS)),
    "attention": (attended, attended),
    "multi_head_attention": (attended, attended),
    "additive_attention": (attended, attended),
    "rotary_embedding": (turned, turned),
    # One rounding; the gradients are copies (add) or products, summed over broadcast axes.
    "add": (pointwise(0.51 * EPS), copied_or_summed),
    "multiply": (pointwise(0.51 * EPS), lambda k: Bound(0.51 * EPS, summed(k) if k > 1 else TINY)),
    "concatenate": (exact, exact),
    "sgd_": (update, None),
    "rmsprop_": (centered_update, None),
    "adam_": (update, None),
    "squared_norm": (squared_norm, None),
    "scale_": (pointwise(1.01 * EPS), None),
    # A copy, or a bound rounded to float32.
    "clip_": (pointwise(0.51 * EPS), None),
}

TABLE = {
    ("float32", op, direction): bound
    for op, bounds in _FLOAT32.items()
    for direction, bound in zip(("forward", "backward"), bounds, strict=True)
    if bound is not None
}


def bound(op, direction, reduction=1, dtype="float32") -> Bound:
    """The table's entry for sums of `reduction` terms."""
    return TABLE[dtype, op, direction](reduction)


def assert_close(actual, expected, op, direction, reduction=1, scale=None, dtype="float32"):
    """Assert that a kernel's result agrees with the reference within the op's bound.

    Parameters
    ----------
    actual : ndarray of `dtype`, or float
        The kernel's result.
    expected : array_like
        The float64 reference's.
    op, direction : str
        The op's name, and "forward" or "backward".
    reduction : int
        The number of terms summed into one element (into the one with most).
    scale : float, optional
        The magnitude of what was summed, finite; default the largest finite |expected|, 1 for
        pointwise ops.
    dtype : str
        The dtype computed in, which the result has to have.

    Raises
    ------
    AssertionError
        Naming the element furthest outside its bound, its index, and the bound. NaN must stand
        where NaN is expected, and an infinity where that infinity is.
    """
    rtol, atol, absolute = bound(op, direction, reduction, dtype)
    if isinstance(actual, np.ndarray):
        assert actual.dtype == dtype, f"{op} {direction}: dtype {actual.dtype}, not {dtype}"
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, (
        f"{op} {direction}: shape {actual.shape}, expected {expected.shape}"
    )
    if expected.size == 0:
        return
    finite = np.isfinite(expected)
    magnitude = np.abs(expected, where=finite, out=np.zeros_like(expected))
    if scale is None:
        scale = 1.0 if absolute else np.max(magnitude)
    assert np.isfinite(scale), f"{op} {direction}: a scale of {scale} allows everything"
    allowed = np.where(finite, rtol * magnitude + atol * scale, 0.0)
    same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
    with np.errstate(invalid="ignore"):
        error = np.where(same, 0.0, np.abs(actual - expected))
    error = np.where(np.isnan(error), np.inf, error)
    if np.all(error <= allowed):
        return
    with np.errstate(over="ignore"):
        excess = np.where(error > 0, error / np.maximum(allowed, np.finfo(np.float64).tiny), 0.0)
    worst = np.unravel_index(np.argmax(excess), excess.shape)
    outside = np.count_nonzero(error > allowed)
    raise AssertionError(
        f"{op} {direction} ({dtype}, {reduction} terms): {outside} of {expected.size} elements "
        f"outside their bound; the worst at {tuple(map(int, worst))}: "
        f"expected {expected[worst]:.9g}, actual {actual[worst]:.9g}, "
        f"error {error[worst]:.3g}, allowed {allowed[worst]:.3g} "
        f"(rtol {rtol:.3g}, atol {atol:.3g} x scale {float(scale):.3g})"
    )
