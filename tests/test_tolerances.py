"""The table of tolerances: honest float32 passes, and each fault worth noticing does not."""

from __future__ import annotations

import numpy as np
import pytest
from reference import OPS
from reference.cases import ACTIVATIONS, make_arrays
from reference.faults import imprecise_results
from tolerances import TABLE, assert_close


@pytest.fixture
def rng():
    return np.random.default_rng(20250311)


LSTM_SHAPES = [(4, 50, 33), (33, 68), (17, 68), (68,), (4, 17), (4, 17), (17, 17)]
LSTM_SHAPES += [(68,), (68,), (17,), (17,)]  # layer normalization

ATTENTION_SHAPES = [(2, 33, 4, 32), (2, 60, 2, 32), (2, 60, 2, 16), (33, 60), (4, 33, 60)]
EVERY_RESULT = {"softcap": 3.0, "return_lse": True, "return_weights": True}
PROJECTED_SHAPES = [(2, 33, 100), (2, 60, 100), (2, 60, 100), *[(100, 4, 25)] * 3, (4, 25, 100)]
PROJECTED_SHAPES += [(4, 25), None, (4, 25), (100,), None, None]  # key_bias' gradient is 0
ADDITIVE = {"return_weights": True}, 92, (168, 141, 141, 3960, 0)

# (op, shapes, options, terms of the forward sum, terms of the sums behind each gradient)
HONEST = [
    ("dense", [(60, 257), (257, 30), (30,)], {}, 257, (30, 60, 60)),
    ("dense", [(60, 257), (257, 30), (30,)], {"activation": "silu"}, 257, (287, 317, 317)),
    ("conv2d", [(2, 9, 8, 128), (3, 3, 128, 8), (8,)], {}, 1152, (72, 84, 84)),
    ("conv2d", [(4, 14, 14, 8), (3, 3, 1, 8), (8,)], {"groups": 8}, 9, (9, 576, 576)),
    ("conv2d_transpose", [(2, 7, 6, 16), (3, 3, 5, 16), (5,)], {"padding": 0}, 144, (45, 84, 144)),
    ("max_pool2d", [(2, 15, 14, 8)], {"pool_size": 3, "strides": 1}, 1, (9,)),
    ("avg_pool2d", [(2, 15, 14, 8)], {"pool_size": 3, "strides": 2}, 9, (4,)),
    ("batch_norm", [(8, 14, 14, 3), (3,), (3,), None, None], {}, 1568, (1568,) * 5),
    ("layer_norm", [(60, 257), (257,), (257,)], {}, 257, (257, 60, 60)),
    ("layer_norm", [(30, 9, 8, 7), (9, 7), (9, 7)], {"axis": (1, 3)}, 63, (63, 240, 240)),
    ("rms_norm", [(60, 257), (257,)], {}, 257, (257, 60)),
    ("group_norm", [(8, 9, 8, 12), (12,), (12,)], {"groups": 3}, 288, (288, 576, 576)),
    ("softmax", [(50, 100)], {}, 100, (100,)),
    ("log_softmax", [(50, 100)], {}, 100, (100,)),
    *((op, [(3000,)], {}, 1, (1,)) for op in ACTIVATIONS),
    ("multiply", [(50, 40), (40,)], {}, 1, (1, 50)),
    ("simple_rnn", [(4, 50, 33), (33, 17), (17, 17), (17,), (4, 17)], {}, 50, (67, *[250] * 3, 67)),
    ("gru", [(4, 50, 33), (33, 51), (17, 51), (2, 51), (4, 17)], {}, 50, (101, *[250] * 3, 101)),
    ("lstm", LSTM_SHAPES, {}, 50, (118, *[250] * 3, 118, 118, *[250] * 5)),
    ("lstm", [*LSTM_SHAPES[:6], *[None] * 5], {}, 50, (118, *[250] * 3, 118, 118, *[0] * 5)),
    ("lstm_cell", [(30, 33), (30, 17), (30, 17), *LSTM_SHAPES[1:4]], {}, 50, (118,) * 6),
    ("embedding", [(20, 30), (50, 7)], {}, 1, (1, 600)),
    ("attention", ATTENTION_SHAPES, {}, 92, (168, 174, 174, 0, 110)),
    ("attention", ATTENTION_SHAPES, {"causal": True}, 92, (168, 174, 174, 0, 110)),
    ("attention", [*ATTENTION_SHAPES[:3], None, None], EVERY_RESULT, 92, (168, 174, 174, 0, 0)),
    ("multi_head_attention", PROJECTED_SHAPES, {}, 260, (400,) * 13),
    ("additive_attention", [(2, 33, 32), (2, 60, 16), (2, 60, 32), (32,), (33, 60)], *ADDITIVE),
    ("rotary_embedding", [(2, 33, 4, 32), (33, 16), (33, 16)], {}, 1, (1, 1, 1)),
    *(
        (f"{kind}_crossentropy", [(50, 20), labels], {"from_logits": logits}, 20, (20, 1))
        for kind, labels in (("sparse_categorical", (50,)), ("binary", (50, 20)))
        for logits in (False, True)
    ),
]


@pytest.mark.parametrize(("op", "shapes", "options", "terms", "gradient_terms"), HONEST)
def test_tolerances_accept_float32_of_another_library(
    op, shapes, options, terms, gradient_terms, rng
):
    pytest.importorskip("torch")
    from reference import torch_peer

    arrays = [
        None if a is None else a.astype(np.float32) if a.dtype.kind == "f" else a
        for a in make_arrays(op, shapes, options, rng)
    ]
    ours = OPS[op].forward(*arrays, **options)
    ours = ours if isinstance(ours, tuple) else (ours,)
    dy = tuple(rng.standard_normal(part.shape).astype(np.float32) for part in ours)
    gradients = OPS[op].backward(dy if len(dy) > 1 else dy[0], *arrays, **options)
    values, peer_gradients = torch_peer.values_and_gradients(op, arrays, dy, options)
    for value, our in zip(values, ours, strict=True):
        assert_close(value, our, op, "forward", terms)
    for peer, our, k in zip(peer_gradients, gradients, gradient_terms, strict=True):
        if our is not None:
            assert_close(peer, our, op, "backward", k)


@pytest.mark.parametrize(
    ("fault", "op", "actual", "expected", "terms"),
    [pytest.param(*case, id=f"{case[1]}-{case[0]}") for case in imprecise_results()],
)
def test_tolerances_notice(fault, op, actual, expected, terms):
    if op != "squared_norm":
        actual = np.asarray(actual, np.float32)
        assert_close(np.asarray(expected, np.float32), expected, op, "forward", terms)
    with pytest.raises(AssertionError, match="outside their bound"):
        assert_close(actual, expected, op, "forward", terms)


def test_assert_close_names_the_worst_element():
    expected = np.arange(12.0).reshape(3, 4)
    actual = expected.astype(np.float32)
    actual[1, 2] += 0.5
    actual[2, 3] += 0.25
    with pytest.raises(AssertionError) as failure:
        assert_close(actual, expected, "dense", "forward", reduction=4)
    for part in ("dense forward", "2 of 12", "(1, 2)", "expected 6", "actual 6.5", "error 0.5"):
        assert part in str(failure.value)
    assert_close(actual, expected, "dense", "forward", reduction=4, scale=2e6)


def test_assert_close_wants_the_same_specials_shape_and_dtype():
    specials = np.array([np.nan, np.inf, -np.inf, 1.0])
    actual = specials.astype(np.float32)
    assert_close(actual, specials, "conv2d", "forward")
    for wrong in ([1, np.inf, -np.inf, 1], [np.nan, -np.inf, -np.inf, 1], [np.nan] * 4):
        with pytest.raises(AssertionError, match="outside"):
            assert_close(np.array(wrong, np.float32), specials, "conv2d", "forward")
    with pytest.raises(AssertionError, match="outside"):
        assert_close(actual, np.array([0.0, np.inf, -np.inf, 1.0]), "conv2d", "forward")
    with pytest.raises(AssertionError, match="shape"):
        assert_close(actual[:3], specials, "conv2d", "forward")
    with pytest.raises(AssertionError, match="dtype"):
        assert_close(specials, specials, "conv2d", "forward")


@pytest.mark.parametrize("op", ["relu", "conv2d", "max_pool2d", "sigmoid"])
def test_assert_close_does_not_warn_of_infinities(op):
    """Warnings are errors here, and a failure has to be an AssertionError."""
    specials = np.array([np.inf, -np.inf, np.nan, 2.0, 0.0])
    actual = specials.astype(np.float32)
    assert_close(actual, specials, op, "forward")
    for place, wrong in ((0, 1.0), (1, np.inf), (2, -np.inf), (3, np.inf), (3, 3e38), (4, np.nan)):
        damaged = actual.copy()
        damaged[place] = wrong
        with pytest.raises(AssertionError, match=rf"1 of 5 .* the worst at \({place},\)"):
            assert_close(damaged, specials, op, "forward")
    with pytest.raises(AssertionError, match="a scale of inf allows everything"):
        assert_close(actual, specials, op, "forward", scale=np.inf)


def test_every_op_has_its_tolerances():
    for op in OPS:
        for direction in ("forward", "backward"):
            assert ("float32", op, direction) in TABLE
