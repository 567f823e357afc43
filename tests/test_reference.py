"""The references themselves: finite differences for every gradient, other libraries for the values.

PyTorch's autograd, where installed, is a second opinion on the gradients too.
"""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from reference import OPS, activations, conv2d, geometry, optimizers
from reference.article_convolution import article_convolution
from reference.cases import ACTIVATIONS, CASES, POOLS, distinct, make_arrays, torch_has
from reference.finite_differences import check_gradients

EPSILON = 1e-12  # agreement of two float64 computations of a few thousand operations


@pytest.fixture
def rng():
    return np.random.default_rng(20250311)


def describe(value):
    if isinstance(value, dict):
        return ",".join(f"{k}={'...' if np.size(v) > 4 else v}" for k, v in value.items())
    return str(value).replace(" ", "")


@pytest.mark.parametrize(("op", "shapes", "options"), CASES, ids=describe)
def test_backward_is_the_gradient_of_forward(op, shapes, options, rng):
    arrays = make_arrays(op, shapes, options, rng)
    # Labels; cos and sin.
    constants = (1,) if op.endswith("crossentropy") else (1, 2) if op.startswith("rotary") else ()
    check_gradients(*OPS[op], *arrays, rng=rng, without_gradient=constants, **options)


def test_every_op_and_every_option_is_differentiated():
    tried = {}
    for op, _, options in CASES:
        tried.setdefault(op, set()).update(options)
    assert tried.keys() == OPS.keys()
    for op in OPS:
        function = getattr(activations, op).function if op in ACTIVATIONS else OPS[op].forward
        if op == "multi_head_attention":  # which hands its options on
            function = OPS["attention"].forward
        parameters = inspect.signature(function).parameters.values()
        options = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
        if op in ACTIVATIONS:
            options = {p.name for p in parameters if p.default is not p.empty}
        assert options == tried[op], op


@pytest.mark.parametrize(
    ("op", "shapes", "options"),
    [case for case in CASES if torch_has(case[0], case[2])],
    ids=describe,
)
def test_values_and_gradients_agree_with_torch(op, shapes, options, rng):
    pytest.importorskip("torch")
    from reference import torch_peer

    arrays = make_arrays(op, shapes, options, rng)
    torch_peer.check_agreement(op, arrays, options, rng)


def test_finite_differences_notice_one_wrong_element(rng):
    def wrong_backward(dy, x):
        (dx,) = OPS["tanh"].backward(dy, x)
        dx[2, 3] *= 1.0 + 1e-5
        return (dx,)

    with pytest.raises(AssertionError, match="argument 0"):
        check_gradients(OPS["tanh"].forward, wrong_backward, rng.uniform(-1, 1, (5, 6)), rng=rng)


def test_finite_differences_notice_a_missing_gradient(rng):
    def wrong_backward(dy, a, b):
        return dy, None

    a = rng.standard_normal((3, 2))
    with pytest.raises(AssertionError, match="argument 1 has no gradient"):
        check_gradients(OPS["add"].forward, wrong_backward, a, a, rng=rng)


# --- Convolution ---------------------------------------------------------------------------------


@pytest.mark.parametrize("image_shape", [(5, 7), (3, 2), (4, 4)])
@pytest.mark.parametrize("kernel_shape", [(1, 1), (3, 2), (2, 2)])
def test_article_convolution_is_conv2d_with_the_kernel_flipped(image_shape, kernel_shape, rng):
    # Integers, so that both sums are exact and the results must be equal.
    x = rng.integers(-9, 10, image_shape).astype(np.float64)
    k = rng.integers(-9, 10, kernel_shape).astype(np.float64)
    image, flipped = x[None, :, :, None], k[::-1, ::-1, None, None]
    valid = conv2d.forward(image, flipped)
    np.testing.assert_array_equal(article_convolution(x, k), valid[0, :, :, 0])
    border = (kernel_shape[0] - 1, kernel_shape[1] - 1)
    full = conv2d.forward(image, flipped, padding=border)
    np.testing.assert_array_equal(article_convolution(x, k, region="full"), full[0, :, :, 0])


@pytest.mark.parametrize(("padding", "mode"), [("valid", "valid"), ("same", "same"), (2, "full")])
def test_conv2d_sums_correlations_over_channels(padding, mode, rng):
    signal = pytest.importorskip("scipy.signal")
    x, kernel = rng.standard_normal((2, 7, 6, 4)), rng.standard_normal((3, 3, 4, 5))
    y = conv2d.forward(x, kernel, padding=padding)
    for n in range(2):
        for f in range(5):
            expected = sum(
                signal.correlate2d(x[n, :, :, c], kernel[:, :, c, f], mode) for c in range(4)
            )
            np.testing.assert_allclose(y[n, :, :, f], expected, rtol=0, atol=EPSILON)


@pytest.mark.parametrize(
    ("length", "size", "stride", "dilation", "padding"),
    [
        (7, 3, 1, 1, (1, 1)),
        (7, 2, 1, 1, (0, 1)),
        (8, 3, 2, 1, (0, 1)),
        (7, 3, 2, 1, (1, 1)),
        (7, 1, 3, 1, (0, 0)),
        (28, 5, 3, 1, (2, 2)),
        (5, 3, 2, 3, (3, 3)),
        (1, 4, 5, 1, (1, 2)),
    ],
)
def test_same_padding_by_hand(length, size, stride, dilation, padding):
    # TensorFlow: total = max((ceil(L / s) - 1) s + extent - L, 0), the smaller half before.
    assert geometry.same_padding(length, size, stride, dilation) == padding


TRANSPOSED_AS_IN_TORCH = [
    {"padding": (1, 0), "strides": (3, 2), "output_padding": (2, 1)},
    {"padding": 2, "strides": 2, "dilation": 2, "output_padding": 1},
    {"padding": 1, "groups": 2, "strides": 3},
    {"padding": 0, "groups": 4, "dilation": (2, 1)},
]


@pytest.mark.parametrize("options", TRANSPOSED_AS_IN_TORCH, ids=describe)
def test_conv2d_transpose_agrees_with_torch(options, rng):
    pytest.importorskip("torch")
    from reference import torch_peer

    shapes = (2, 4, 5, 4), (3, 3, 8 // options.get("groups", 1), 4), (8,)
    arrays = [rng.standard_normal(shape) for shape in shapes]
    torch_peer.check_agreement("conv2d_transpose", arrays, options, rng)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize(
    ("size", "padding"),
    [(size, padding) for size in (1, 2, 3, 4, 5) for padding in ("same", "valid")]
    + [(size, ((1, 0), (0, 2))) for size in (3, 4, 5)],
)
def test_conv2d_transpose_is_the_adjoint_of_conv2d(size, stride, dilation, padding, rng):
    x, kernel = rng.standard_normal((2, 4, 3, 2)), rng.standard_normal((size, size, 5, 2))
    options = {"strides": stride, "padding": padding, "dilation": dilation}
    y = OPS["conv2d_transpose"].forward(x, kernel, **options)
    dx, dkernel, _ = conv2d.backward(x, y, kernel, **options)
    np.testing.assert_allclose(dx, y, rtol=0, atol=1e-11)
    # <conv2d(y), x> = <y, conv2d_transpose(x)>, and the kernel enters both alike.
    np.testing.assert_allclose((dkernel * kernel).sum(), (y * y).sum(), rtol=1e-11)


@pytest.mark.parametrize(
    ("padding", "output_padding", "size", "stride", "expected"),
    [
        # Keras: input 5; "same" gives 5 stride, "valid" 5 stride + max(size - stride, 0).
        ("same", None, 3, 2, 10),
        ("same", None, 2, 3, 15),
        ("valid", None, 3, 2, 11),
        ("valid", None, 2, 3, 15),
        ("valid", None, 4, 4, 20),
        # With output_padding: 4 stride + size - 2 (size // 2 if "same" else 0) + output_padding.
        ("same", 0, 3, 2, 9),
        ("same", 1, 3, 2, 10),
        ("same", 1, 4, 2, 9),
        ("valid", 0, 3, 2, 11),
        ("valid", 1, 2, 3, 15),
        (1, None, 3, 2, 9),
        (1, 1, 3, 2, 10),
        (((0, 2), (1, 1)), None, 3, 2, 9),
    ],
)
def test_conv2d_transpose_output_size(padding, output_padding, size, stride, expected):
    y = OPS["conv2d_transpose"].forward(
        np.ones((1, 5, 5, 1)),
        np.ones((size, size, 1, 1)),
        padding=padding,
        output_padding=output_padding,
        strides=stride,
    )
    assert y.shape == (1, expected, expected, 1)


def test_conv1d_agrees_with_numpy_and_causal_sees_no_future(rng):
    x, kernel = rng.standard_normal((1, 11, 1)), rng.standard_normal((4, 1, 1))
    expected = np.correlate(x[0, :, 0], kernel[:, 0, 0], "valid")
    y = OPS["conv1d"].forward(x, kernel)
    np.testing.assert_allclose(y[0, :, 0], expected, rtol=0, atol=EPSILON)

    options = {"padding": "causal", "dilation": 2}
    before = OPS["conv1d"].forward(x, kernel, **options)
    x[0, 6:] += 1.0
    after = OPS["conv1d"].forward(x, kernel, **options)
    assert before.shape == x.shape
    np.testing.assert_array_equal(before[0, :6], after[0, :6])
    assert np.all(before[0, 6] != after[0, 6])


# --- Pools ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", POOLS)
@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("pool_size", [2, 3, (2, 3), 4])
@pytest.mark.parametrize("strides", [None, 1, (3, 2), 5])
@pytest.mark.parametrize("padding", [0, 1])
def test_pools_agree_with_torch(op, ceil_mode, pool_size, strides, padding, rng):
    pytest.importorskip("torch")
    from reference import torch_peer

    options = {"pool_size": pool_size, "strides": strides, "padding": padding}
    options["ceil_mode"] = ceil_mode
    more = {"max_pool2d": ("dilation", (1, 2)), "avg_pool2d": ("count_include_pad", (False, True))}
    name, values = more[op]
    for value in values:
        arrays = [distinct(rng, (2, 9, 10, 3))]
        torch_peer.check_agreement(op, arrays, {**options, name: value}, rng)


def test_max_pool_gives_the_gradient_to_the_first_of_equals():
    x = np.zeros((1, 4, 4, 1))
    x[0, 1, 2:, 0] = 5.0
    (dx,) = OPS["max_pool2d"].backward(np.array([1.0, 2, 3, 4]).reshape(1, 2, 2, 1), x)
    expected = np.zeros((4, 4))
    expected[0, 0], expected[1, 2], expected[2, 0], expected[2, 2] = 1, 2, 3, 4
    np.testing.assert_array_equal(dx[0, :, :, 0], expected)
    (dx,) = OPS["global_max_pool2d"].backward(np.array([[7.0]]), x)
    assert dx[0, 1, 2, 0] == 7.0
    assert dx.sum() == 7.0


def test_max_pool_of_nan_infinity_and_padding():
    x = np.array([[1.0, np.nan, -np.inf, -np.inf], [np.nan, 9.0, -np.inf, -np.inf]])
    x = x.reshape(1, 2, 4, 1)
    y = OPS["max_pool2d"].forward(x)
    np.testing.assert_array_equal(y.ravel(), [np.nan, -np.inf])
    (dx,) = OPS["max_pool2d"].backward(np.array([2.0, 3.0]).reshape(y.shape), x)
    np.testing.assert_array_equal(dx[0, :, :, 0], [[0, 2, 3, 0], [0, 0, 0, 0]])
    # With padding the first real element, not the padding before it, wins among -inf.
    (dx,) = OPS["max_pool2d"].backward(np.ones((1, 1, 1, 1)), x[:, :1, 2:3], padding="same")
    np.testing.assert_array_equal(dx.ravel(), [1.0])


def test_pool_windows_that_hold_padding_only():
    x = np.array([3.0, 4.0]).reshape(1, 2, 1, 1)
    options = {"pool_size": (2, 1), "padding": (1, 0), "dilation": (3, 1)}  # taps -1 and 2
    assert OPS["max_pool2d"].forward(x, **options).ravel() == [-np.inf]
    assert OPS["avg_pool2d"].forward(x, **options).ravel() == [0.0]
    assert not np.any(OPS["max_pool2d"].backward(np.ones((1, 1, 1, 1)), x, **options))
    assert not np.any(OPS["avg_pool2d"].backward(np.ones((1, 1, 1, 1)), x, **options))


# --- Pointwise, softmax, losses, normalization ---------------------------------------------------


def test_activations_at_their_ends():
    x = np.array([-800.0, -100.0, 100.0, 800.0])
    with np.errstate(over="raise", invalid="raise"):
        for op in ACTIVATIONS:
            y = OPS[op].forward(x)
            (dx,) = OPS[op].backward(np.ones(4), x)
            assert np.isfinite(y).all()
            assert np.isfinite(dx).all()
    assert OPS["sigmoid"].forward(np.array([-100.0])) == pytest.approx(np.exp(-100.0), rel=1e-12)
    for op in ACTIVATIONS:
        assert np.isnan(OPS[op].forward(np.array([np.nan]))).all()


@pytest.mark.parametrize("axis", [-1, 0])
def test_softmax_agrees_with_scipy(axis, rng):
    special = pytest.importorskip("scipy.special")
    x = rng.standard_normal((5, 6, 7)) * 200.0
    ours, log_ours = (OPS[op].forward(x, axis=axis) for op in ("softmax", "log_softmax"))
    np.testing.assert_allclose(ours, special.softmax(x, axis=axis), rtol=1e-13)
    np.testing.assert_allclose(log_ours, special.log_softmax(x, axis=axis), rtol=1e-13)


def test_probabilities_give_the_loss_of_their_logits(rng):
    logits, labels = rng.standard_normal((6, 4)) * 2, rng.integers(0, 4, 6)
    op = OPS["sparse_categorical_crossentropy"]
    unnormalized = np.exp(logits)
    expected = op.forward(logits, labels, from_logits=True)
    np.testing.assert_allclose(op.forward(unnormalized, labels), expected, rtol=1e-13)
    categorical = OPS["categorical_crossentropy"].forward(unnormalized, np.eye(4)[labels])
    np.testing.assert_allclose(categorical, expected, rtol=1e-13)


def test_certain_probabilities_are_clipped_as_in_keras():
    y_pred = np.array([[0.0, 1.0], [1.0, 0.0]])
    labels = np.array([1, 1])
    op = OPS["sparse_categorical_crossentropy"]
    loss = op.forward(y_pred, labels)
    np.testing.assert_allclose(loss, [1.192093e-07, 16.11809565], rtol=1e-6)
    assert not op.backward(np.ones(2), y_pred, labels)[0].any()
    binary = OPS["binary_crossentropy"]
    loss = binary.forward(np.array([[1.0], [0.0]]), np.array([[0.0], [1.0]]))
    # 1 - (1 - 1e-7) is 1.19e-7 in float32, hence two different losses.
    np.testing.assert_allclose(loss, [15.94238515, 16.11809565], rtol=1e-8)
    assert not binary.backward(np.ones(2), y_pred, y_pred)[0].any()


@pytest.mark.parametrize("from_logits", [False, True])
def test_ignored_rows_are_zero_whatever_they_contain(from_logits):
    y_pred = np.array([[0.2, 0.8], [np.nan, np.inf]])
    labels = np.array([0, 255])
    op = OPS["sparse_categorical_crossentropy"]
    options = {"from_logits": from_logits, "ignore_index": 255, "class_weights": [2.0, 3.0]}
    loss = op.forward(y_pred, labels, **options)
    assert loss[0] > 0
    assert loss[1] == 0
    gradient, _ = op.backward(np.ones(2), y_pred, labels, **options)
    assert np.isfinite(gradient).all()
    assert not gradient[1].any()


def test_class_weights_of_rows_and_of_soft_labels(rng):
    logits, labels = rng.standard_normal((6, 4)), np.array([0, 1, 2, 3, 2, 1])
    weights = np.array([0.5, 2.0, 1.0, 3.0])
    sparse, categorical = (
        OPS[f"{kind}_crossentropy"].forward for kind in ("sparse_categorical", "categorical")
    )
    plain = sparse(logits, labels, from_logits=True, label_smoothing=0.1)
    smooth = {"from_logits": True, "label_smoothing": 0.1, "class_weights": weights}
    np.testing.assert_allclose(sparse(logits, labels, **smooth), plain * weights[labels])
    sharp = {"from_logits": True, "class_weights": weights}
    one_hot = np.eye(4)[labels]
    np.testing.assert_allclose(
        categorical(logits, one_hot, **sharp), sparse(logits, labels, **sharp)
    )
    # Smoothed labels are soft ones, and soft ones are weighted class by class.
    soft = 0.9 * one_hot + 0.1 / 4
    np.testing.assert_allclose(
        categorical(logits, one_hot, **smooth), categorical(logits, soft, **sharp)
    )


@pytest.mark.parametrize("inference", [False, True])
def test_batch_norm_normalizes(inference, rng):
    x = rng.standard_normal((5, 4, 3, 2)) * [1.0, 9.0] + [100.0, -3.0]
    gamma, beta = np.array([2.0, -1.0]), np.array([0.5, 7.0])
    statistics = [x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))] if inference else []
    y = OPS["batch_norm"].forward(x, gamma, beta, *statistics, epsilon=1e-12)
    if not inference:
        y, mean, variance = y
        np.testing.assert_allclose(mean, x.mean(axis=(0, 1, 2)))
        np.testing.assert_allclose(variance, x.var(axis=(0, 1, 2)))
    np.testing.assert_allclose(y.mean(axis=(0, 1, 2)), beta)
    np.testing.assert_allclose(y.std(axis=(0, 1, 2)), np.abs(gamma))


def test_matmul_is_the_sum_over_the_inner_axis(rng):
    a, b = rng.standard_normal((2, 1, 5, 3)), rng.standard_normal((4, 7, 5))
    expected = np.einsum("xykm,ynk->xymn", np.broadcast_to(a, (2, 4, 5, 3)), b)
    y = OPS["matmul"].forward(a, b, transpose_a=True, transpose_b=True)
    np.testing.assert_allclose(y, expected, rtol=0, atol=EPSILON)


# --- Optimizers ----------------------------------------------------------------------------------

RATE = 0.03
# PyTorch adds epsilon at another place than Keras: only without one are the two the same.
NO_EPSILON = 1e-300


def sgd_steps(momentum, nesterov):
    def step(_, param, grad, velocity=None):
        velocity = np.zeros_like(param) if velocity is None and momentum else velocity
        options = {"learning_rate": RATE, "momentum": momentum, "nesterov": nesterov}
        return optimizers.sgd(param, grad, velocity, **options)

    return step


def rmsprop_steps(momentum, centered):
    def step(_, param, grad, square=0.0, mean=None, slot=None):
        mean = np.zeros_like(param) if mean is None and centered else mean
        slot = np.zeros_like(param) if slot is None and momentum else slot
        options = {"learning_rate": RATE, "momentum": momentum, "epsilon": NO_EPSILON}
        return optimizers.rmsprop(param, grad, square, mean, slot, **options)

    return step


def adam_steps(amsgrad, weight_decay):
    def step(number, param, grad, m=0.0, v=0.0, vhat=None):
        vhat = np.zeros_like(param) if vhat is None and amsgrad else vhat
        options = {"beta_1": 0.8, "beta_2": 0.9, "epsilon": NO_EPSILON, "step": number}
        options.update(learning_rate=RATE, weight_decay=weight_decay)
        return optimizers.adam(param, grad, m, v, vhat, **options)

    return step


@pytest.mark.parametrize(
    ("step", "peer", "peer_options"),
    [
        (sgd_steps(0.0, False), "SGD", {}),
        (sgd_steps(0.9, False), "SGD", {"momentum": 0.9}),
        (sgd_steps(0.9, True), "SGD", {"momentum": 0.9, "nesterov": True}),
        (rmsprop_steps(0.0, False), "RMSprop", {}),
        (rmsprop_steps(0.7, False), "RMSprop", {"momentum": 0.7}),
        (rmsprop_steps(0.7, True), "RMSprop", {"momentum": 0.7, "centered": True}),
        (adam_steps(False, 0.0), "Adam", {}),
        (adam_steps(True, 0.0), "Adam", {"amsgrad": True}),
        (adam_steps(False, 0.2), "AdamW", {"weight_decay": 0.2}),
    ],
)
def test_optimizers_walk_the_path_of_torch(step, peer, peer_options, rng):
    torch = pytest.importorskip("torch")
    param = rng.standard_normal(7)
    theirs = torch.tensor(param)
    if peer != "SGD":
        peer_options = {**peer_options, "eps": NO_EPSILON}
    if peer == "RMSprop":
        peer_options = {**peer_options, "alpha": 0.9}
    if peer.startswith("Adam"):
        peer_options = {**peer_options, "betas": (0.8, 0.9)}
    optimizer = getattr(torch.optim, peer)([theirs], lr=RATE, **peer_options)
    state = (param,)
    for number in range(1, 6):
        grad = rng.standard_normal(7) / number
        state = step(number, state[0], grad, *state[1:])
        theirs.grad = torch.tensor(grad)
        optimizer.step()
        np.testing.assert_allclose(state[0], theirs.numpy(), rtol=1e-10, atol=1e-12)


def test_one_optimizer_step_by_hand():
    two = np.array([2.0])
    param, velocity = optimizers.sgd(
        two, two * 2, two / 2, learning_rate=0.1, momentum=0.5, nesterov=True, weight_decay=0.25
    )
    assert velocity == pytest.approx(0.1)  # 0.5 * 1 - 0.1 * 4
    assert param == pytest.approx(2.0 * 0.975 + 0.5 * 0.1 - 0.4)
    param, square, _, _ = optimizers.rmsprop(
        two, two, two, learning_rate=0.1, rho=0.5, epsilon=6.0, weight_decay=0.25
    )
    assert square == pytest.approx(3.0)  # (2 + 4) / 2
    assert param == pytest.approx(1.95 - 0.2 / 3.0)  # epsilon stands under the root
    param, m, v, vhat = optimizers.adam(
        two,
        two,
        two * 0,
        two * 0,
        two * 4,
        step=1,
        learning_rate=0.1,
        beta_1=0.5,
        beta_2=0.75,
        epsilon=1.0,
        weight_decay=0.25,
    )
    assert (m, v, vhat) == (1.0, 1.0, 8.0)
    # alpha = 0.1 sqrt(0.25) / 0.5, epsilon stands outside the root
    assert param == pytest.approx(1.95 - 0.1 / (np.sqrt(8.0) + 1.0))
