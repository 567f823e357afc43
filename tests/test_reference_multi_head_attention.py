"""What finite differences cannot tell of multi_head_attention and rotary_embedding.

Where heads lie in the kernels, by the layers of Keras and PyTorch; what turning by an angle keeps.
"""

from __future__ import annotations

import numpy as np
import pytest
from keras_peer import import_keras
from reference import OPS
from reference.attention_cases import (
    FEATURES,
    attention_arrays,
    attention_options,
    attention_sizes,
    multi_head_attention_shapes,
)

EPSILON = 1e-12  # agreement of two float64 computations of a few thousand operations
NAMES = ("query", "key", "value", "query_kernel", "key_kernel", "value_kernel", "output_kernel")
NAMES += ("query_bias", "key_bias", "value_bias", "output_bias", "mask", "bias")

multi_head_attention = OPS["multi_head_attention"]
rotary_embedding = OPS["rotary_embedding"]


@pytest.fixture
def rng():
    return np.random.default_rng(20260307)


def arrays_of(rng, biases=(True,) * 4, mask=None, bias=None, **sizes):
    shapes = multi_head_attention_shapes(attention_sizes(**sizes), mask, bias, biases)
    return attention_arrays("multi_head_attention", shapes, rng)


def assert_same(results, expected, tolerance=0.0):
    for result, right in zip(results, expected, strict=True):
        assert (result is None) == (right is None)
        if right is not None:
            np.testing.assert_allclose(result, right, rtol=tolerance, atol=tolerance)


# --- multi_head_attention ------------------------------------------------------------------------


def test_each_head_is_an_attention_of_its_own(rng):
    arrays = arrays_of(rng, mask="NASL", bias="ASL", heads=4, key_heads=2)
    named = dict(zip(NAMES, arrays, strict=True))
    options = {"causal": True, "softcap": 1.3, "alibi_slopes": np.arange(4.0)}
    y = multi_head_attention.forward(*arrays, **options)
    expected = named["output_bias"]
    for head in range(4):
        q, k, v = (
            named[x] @ named[f"{x}_kernel"][:, a] + named[f"{x}_bias"][a]
            for x, a in (("query", head), ("key", head // 2), ("value", head // 2))
        )
        one = {**options, "alibi_slopes": [float(head)]}
        mask, bias = named["mask"][:, head, None], named["bias"][head]
        seen = OPS["attention"].forward(*(x[:, :, None] for x in (q, k, v)), mask, bias, **one)
        expected = expected + seen[:, :, 0] @ named["output_kernel"][head]
    np.testing.assert_allclose(y, expected, rtol=0, atol=EPSILON)


def test_identity_projections_are_attention_itself(rng):
    q, k, v = (rng.standard_normal((2, length, 2, 3)) for length in (4, 5, 5))
    identity = np.eye(6).reshape(6, 2, 3)
    flat = [x.reshape(2, -1, 6) for x in (q, k, v)]
    options = {"causal": True, "return_lse": True, "return_weights": True}
    y, *others = multi_head_attention.forward(
        *flat, identity, identity, identity, np.eye(6).reshape(2, 3, 6), **options
    )
    expected, *expected_others = OPS["attention"].forward(q, k, v, **options)
    assert_same([y, *others], [expected.reshape(2, 4, 6), *expected_others], EPSILON)


def test_what_sees_nothing_gives_the_output_bias(rng):
    arrays = arrays_of(rng, mask="N1SL")
    y = multi_head_attention.forward(*arrays)
    nothing = ~arrays[11][:, 0].any(axis=2)
    assert nothing.any(axis=1).all()
    np.testing.assert_array_equal(
        y[nothing], np.broadcast_to(arrays[10], (nothing.sum(), FEATURES["output"]))
    )
    dy = np.where(nothing[..., None], rng.standard_normal(y.shape), 0.0)
    gradients = dict(zip(NAMES, multi_head_attention.backward(dy, *arrays), strict=True))
    np.testing.assert_allclose(gradients.pop("output_bias"), dy.sum(axis=(0, 1)))
    for gradient in gradients.values():
        assert gradient is None or not gradient.any()


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_nan_in_padding_reaches_the_gradients_of_two_kernels_alone(poison, rng):
    arrays = arrays_of(rng, bias="ASL")
    options = {"key_lengths": [4, 0, 6], "dropout": 0.5}
    kept = attention_options(rng, attention_sizes(), dropout=0.5)["kept"]
    options["kept"] = kept
    y = multi_head_attention.forward(*arrays, **options)
    dy = rng.standard_normal(y.shape)
    expected = dict(zip(NAMES, multi_head_attention.backward(dy, *arrays, **options), strict=True))
    padding = (np.arange(6) >= np.array([4, 0, 6])[:, None])[..., None]
    arrays[1:3] = [np.where(padding, poison, x) for x in arrays[1:3]]
    np.testing.assert_array_equal(multi_head_attention.forward(*arrays, **options), y)
    found = dict(zip(NAMES, multi_head_attention.backward(dy, *arrays, **options), strict=True))
    for name in ("key_kernel", "value_kernel"):
        del expected[name]
        assert np.isnan(found.pop(name)).all()
    assert_same(found.values(), expected.values())
    assert not found["key"][padding[..., 0]].any()


def test_a_key_bias_moves_all_scores_of_a_row_alike(rng):
    arrays = arrays_of(rng)
    y, lse = multi_head_attention.forward(*arrays, return_lse=True)
    dy = rng.standard_normal(y.shape), None
    d_bias = multi_head_attention.backward(dy, *arrays, return_lse=True)[8]
    np.testing.assert_allclose(d_bias, 0.0, atol=1e-14)
    d_bias = multi_head_attention.backward((None, lse), *arrays, return_lse=True)[8]
    assert np.abs(d_bias).min() > 0.01
    arrays[8] = arrays[8] + 1.0
    moved, moved_lse = multi_head_attention.forward(*arrays, return_lse=True)
    np.testing.assert_allclose(moved, y, rtol=0, atol=EPSILON)
    assert np.abs(moved_lse - lse).max() > 0.1


def test_absent_gradients_are_zeros(rng):
    arrays = arrays_of(rng, mask="L", bias="SL")
    options = {"return_lse": True, "return_weights": True}
    results = multi_head_attention.forward(*arrays, **options)
    dy = tuple(rng.standard_normal(part.shape) for part in results)
    for absent in range(2 ** len(dy)):
        given = [None if absent >> i & 1 else d for i, d in enumerate(dy)]
        zeros = [np.zeros(d.shape) if g is None else d for d, g in zip(dy, given, strict=True)]
        assert_same(
            multi_head_attention.backward(given, *arrays, **options),
            multi_head_attention.backward(zeros, *arrays, **options),
        )
    for gradient in multi_head_attention.backward(None, *arrays):
        assert gradient is None or not gradient.any()


TORCH_CASES = {
    "plain": {},
    "no biases": {"biases": (False,) * 4},
    "mask": {"mask": "NASL"},
    "bias": {"bias": "NASL"},
    "causal": {"causal": True, "query_offset": 0},
    "lengths": {"key_lengths": np.array([6, 1, 4])},
}


@pytest.mark.parametrize("case", TORCH_CASES.values(), ids=TORCH_CASES)
def test_values_and_gradients_agree_with_torch(case, monkeypatch, rng):
    torch = pytest.importorskip("torch")
    options = dict(case)
    pair = {name: options.pop(name, None) for name in ("mask", "bias")}
    biases = options.pop("biases", (True,) * 4)
    # The module's output and query are as wide as all its heads.
    monkeypatch.setitem(FEATURES, "query", 12)
    monkeypatch.setitem(FEATURES, "output", 12)
    arrays = arrays_of(rng, biases, **pair, heads=4, key_heads=4, width=3, value_width=3)
    if pair["mask"]:
        arrays[11][..., -1, 2] = True  # of nothing, the module makes NaN
    if pair["bias"]:
        arrays[12] = rng.standard_normal(arrays[12].shape)
    module = torch.nn.MultiheadAttention(
        12, 4, bias=biases[0], kdim=FEATURES["key"], vdim=FEATURES["value"], batch_first=True
    )
    names = [name for name, a in zip(NAMES, arrays, strict=True) if a is not None]
    tensors = {n: torch.tensor(a) for n, a in zip(NAMES, arrays, strict=True) if a is not None}
    inputs = [t.requires_grad_(True) for name, t in tensors.items() if name != "mask"]
    parameters = {
        f"{x[0]}_proj_weight": tensors[f"{x}_kernel"].flatten(1).T
        for x in ("query", "key", "value")
    }
    parameters["out_proj.weight"] = tensors["output_kernel"].flatten(0, 1).T
    if biases[0]:
        parts = [tensors[f"{x}_bias"].flatten() for x in ("query", "key", "value")]
        parameters["in_proj_bias"] = torch.cat(parts)
        parameters["out_proj.bias"] = tensors["output_bias"]
    attn_mask = padding = None
    if pair["mask"]:
        attn_mask = ~tensors["mask"].flatten(0, 1)
    if pair["bias"]:
        attn_mask = tensors["bias"].flatten(0, 1)
    if "causal" in options:
        attn_mask = torch.ones(5, 6, dtype=torch.bool).triu(1)
    if "key_lengths" in options:
        padding = torch.arange(6) >= torch.tensor(options["key_lengths"])[:, None]
    theirs = torch.func.functional_call(
        module,
        parameters,
        (tensors["query"], tensors["key"], tensors["value"]),
        {"attn_mask": attn_mask, "key_padding_mask": padding, "average_attn_weights": False},
    )
    ours = multi_head_attention.forward(*arrays, return_weights=True, **options)
    assert_same(ours, [t.detach().numpy() for t in theirs], EPSILON)
    dy = tuple(rng.standard_normal(part.shape) for part in ours)
    gradients = multi_head_attention.backward(dy, *arrays, return_weights=True, **options)
    their_gradients = torch.autograd.grad(theirs, inputs, [torch.tensor(d) for d in dy])
    ours = [g for g in gradients if g is not None]
    assert len(names) - ("mask" in names) == len(ours)
    assert_same(ours, [g.numpy() for g in their_gradients], 1e-11)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("use_bias", [False, True])
def test_values_and_gradients_agree_with_keras(grouped, use_bias, monkeypatch, rng):
    keras = import_keras()
    import jax

    heads, key_heads, width, value_width = (4, 2, 3, 3) if grouped else (4, 4, 3, 2)
    monkeypatch.setitem(FEATURES, "output", FEATURES["query"])
    if grouped:
        layer = keras.layers.GroupQueryAttention(width, heads, key_heads, use_bias=use_bias)
    else:
        layer = keras.layers.MultiHeadAttention(heads, width, value_width, use_bias=use_bias)
    sizes = {"heads": heads, "key_heads": key_heads, "width": width, "value_width": value_width}
    arrays = [
        None if a is None else a.astype(np.float32)
        for a in arrays_of(rng, (use_bias,) * 4, **sizes)
    ]
    query, key, value, *kernels = arrays[:7]
    biases = arrays[7:11]
    layer.build(query.shape, value.shape, key.shape)
    visible = rng.random((3, 5, 6)) < 0.5
    visible[:, :, 3] = True  # of nothing, Keras makes the mean
    weights = [w for pair in zip(kernels, biases, strict=True) for w in pair if w is not None]
    assert [w.shape for w in layer.weights] == [w.shape for w in weights]

    def call(query, key, value, weights):
        inputs = {"value": value, "key": key, "attention_mask": visible}
        others = [variable.value for variable in layer.non_trainable_variables]
        call_options = {"return_attention_scores": True}
        return layer.stateless_call(weights, others, query, **inputs, **call_options)[0]

    theirs, pullback = jax.vjp(call, query, key, value, weights)
    arrays[11] = visible[:, None]
    ours = multi_head_attention.forward(*arrays, return_weights=True)
    dy = tuple(rng.standard_normal(part.shape).astype(np.float32) for part in ours)
    *d_inputs, d_weights = pullback(type(theirs)(dy))
    gradients = multi_head_attention.backward(dy, *arrays, return_weights=True)
    d_biases = gradients[7:11]
    d_ours = [g for pair in zip(gradients[3:7], d_biases, strict=True) for g in pair]
    found = [*ours, *gradients[:3], *(g for g in d_ours if g is not None)]
    for our, their in zip(found, [*theirs, *d_inputs, *d_weights], strict=True):
        scale = max(np.abs(our).max(), 1.0)
        np.testing.assert_allclose(our, np.asarray(their), rtol=0, atol=2e-6 * scale)


# --- rotary_embedding ----------------------------------------------------------------------------


def cos_and_sin(positions, width):
    angles = np.asarray(positions)[..., None] / 100.0 ** (np.arange(0, width, 2) / width)
    return np.cos(angles), np.sin(angles)


def test_a_quarter_turn_by_hand():
    x = np.array([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 1, 4)
    cos, sin = np.array([[0.0, 1.0]]), np.array([[1.0, 0.0]])  # of one pair; the other stays
    y = rotary_embedding.forward(x, cos, sin)
    np.testing.assert_array_equal(y.ravel(), [-3.0, 2.0, 1.0, 4.0])
    y = rotary_embedding.forward(x, cos, sin, interleaved=True)
    np.testing.assert_array_equal(y.ravel(), [-2.0, 1.0, 3.0, 4.0])


@pytest.mark.parametrize("interleaved", [False, True])
def test_scores_depend_on_the_distance_alone(interleaved, rng):
    q, k = rng.standard_normal((2, 1, 1, 3, 8))
    scores = []
    for position in (0.0, 5.0, -17.0):
        turned = [
            rotary_embedding.forward(x, *cos_and_sin([at], 8), interleaved=interleaved)
            for x, at in ((q, position + 3.0), (k, position))
        ]
        np.testing.assert_allclose((turned[0] ** 2).sum(axis=-1), (q**2).sum(axis=-1))
        scores.append((turned[0] * turned[1]).sum(axis=-1))
    np.testing.assert_allclose(scores[1:], [scores[0]] * 2, rtol=0, atol=EPSILON)
    assert np.abs(scores[0] - (q * k).sum(axis=-1)).min() > 1e-3


def test_interleaved_pairs_are_halves_in_another_order(rng):
    x = rng.standard_normal((2, 5, 3, 6))
    cos, sin = cos_and_sin(np.arange(5.0), 6)
    order = [0, 2, 4, 1, 3, 5]
    y = rotary_embedding.forward(x, cos, sin, interleaved=True)
    np.testing.assert_array_equal(y[..., order], rotary_embedding.forward(x[..., order], cos, sin))


def test_each_sequence_may_have_its_own_positions(rng):
    x = rng.standard_normal((3, 4, 2, 6))
    positions = rng.integers(0, 50, (3, 4))
    y = rotary_embedding.forward(x, *cos_and_sin(positions, 6))
    for n in range(3):
        alone = rotary_embedding.forward(x[n : n + 1], *cos_and_sin(positions[n], 6))
        np.testing.assert_array_equal(y[n : n + 1], alone)


@pytest.mark.parametrize("interleaved", [False, True])
def test_the_gradient_is_turned_back(interleaved, rng):
    x = rng.standard_normal((2, 4, 3, 6))
    cos, sin = cos_and_sin(np.arange(4.0), 6)
    y = rotary_embedding.forward(x, cos, sin, interleaved=interleaved)
    dx, *others = rotary_embedding.backward(y, x, cos, sin, interleaved=interleaved)
    np.testing.assert_allclose(dx, x, rtol=0, atol=EPSILON)
    assert others == [None, None]
