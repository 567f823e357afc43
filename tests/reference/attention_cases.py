"""Cases of the attention ops, and draws of any others. Part of `cases`.

Kernel tests may take `attention_case` for arrays and options of sizes of their own, and
`ATTENTION_DRAWS` to let hypothesis choose its arguments. The ops have `seed` where these cases have
`kept`.
"""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

SIZES = {"batch": 3, "queries": 5, "keys": 6, "heads": 4, "key_heads": 2, "width": 3}
SIZES["value_width"] = 2
FEATURES = {"query": 5, "key": 4, "value": 6, "output": 3}

# What a case may choose, apart from its sizes, and what is chosen for it. The arrays that follow
# from a choice are drawn.
CHOICES = {
    "mask": None,  # or its axes: "SL", "N11L", "L", ...
    "bias": None,  # likewise
    "scale": None,
    "causal": False,
    "query_offset": None,  # or an int, or "each": one for each sequence
    "key_lengths": False,
    "window": None,
    "softcap": None,
    "alibi": False,
    "dropout": 0.0,
    "return_lse": False,
    "return_weights": False,
}
# Windows and offsets are such that some queries see all keys, some few, and some none.
ATTENTION_DRAWS = {
    "batch": st.integers(0, 3),
    "queries": st.integers(1, 6),
    "keys": st.integers(0, 7),
    "group": st.integers(1, 3),  # heads / key_heads
    "key_heads": st.integers(1, 3),
    "width": st.integers(1, 5),
    "value_width": st.integers(1, 5),
    "mask": st.sampled_from([None, "L", "SL", "N11L", "NASL", "A1L", "NA11"]),
    "bias": st.sampled_from([None, "L", "ASL", "N1SL", "NASL", "1A1L", "S1"]),
    "scale": st.sampled_from([None, 0.3, -1.1, 0.0]),
    "causal": st.booleans(),
    "query_offset": st.sampled_from([None, 0, 2, -3, "each"]),
    "key_lengths": st.booleans(),
    "window": st.sampled_from([None, 0, 2, (1, 1), (None, 0), (2, None), (0, 3), (None, None)]),
    "softcap": st.sampled_from([None, 0.7, 20.0]),
    "alibi": st.booleans(),
    "dropout": st.sampled_from([0.0, 0.25]),
    "return_lse": st.booleans(),
    "return_weights": st.booleans(),
}


def attention_sizes(heads=None, key_heads=2, group=2, **others):
    """SIZES with those of `others`; `heads`, or key_heads * group."""
    return {**SIZES, **others, "heads": heads or key_heads * group, "key_heads": key_heads}


def sizes_and_choices(given):
    """`given`, names of SIZES (or "group") and of CHOICES, as all sizes and the choices given."""
    sizes = attention_sizes(**{name: given[name] for name in given if name not in CHOICES})
    return sizes, {name: given[name] for name in given if name in CHOICES}


def pair_shape(axes, sizes):
    """The shape of a mask or bias whose axes are named: "N11L" is (batch, 1, 1, keys)."""
    names = {"N": "batch", "A": "heads", "S": "queries", "L": "keys"}
    return None if axes is None else tuple(1 if a == "1" else sizes[names[a]] for a in axes)


def attention_options(rng, sizes, **choices):
    """The op's options for what is given of CHOICES; mask and bias, which are arrays, are not."""
    chosen = {**CHOICES, **choices}
    as_they_are = ("scale", "causal", "window", "softcap", "return_lse", "return_weights")
    options = {name: chosen[name] for name in as_they_are if chosen[name] != CHOICES[name]}
    if chosen["query_offset"] == "each":
        options["query_offset"] = rng.integers(-2, sizes["keys"] + 1, sizes["batch"])
    elif chosen["query_offset"] is not None:
        options["query_offset"] = chosen["query_offset"]
    if chosen["key_lengths"]:
        options["key_lengths"] = rng.integers(0, sizes["keys"] + 1, sizes["batch"])
    if chosen["alibi"]:
        options["alibi_slopes"] = rng.uniform(0.1, 0.5, sizes["heads"])
    if chosen["dropout"]:
        options["dropout"] = chosen["dropout"]
        options["kept"] = rng.random(pair_shape("NASL", sizes)) >= chosen["dropout"]
    return options


def attention_shapes(sizes, mask=None, bias=None):
    batch, keys, key_heads = sizes["batch"], sizes["keys"], sizes["key_heads"]
    return [
        (batch, sizes["queries"], sizes["heads"], sizes["width"]),
        (batch, keys, key_heads, sizes["width"]),
        (batch, keys, key_heads, sizes["value_width"]),
        pair_shape(mask, sizes),
        pair_shape(bias, sizes),
    ]


def attention_case(rng, **given):
    """-> arrays, options of `attention`, float64; `given` are names of SIZES and of CHOICES."""
    sizes, choices = sizes_and_choices(given)
    shapes = attention_shapes(sizes, choices.get("mask"), choices.get("bias"))
    return attention_arrays("attention", shapes, rng), attention_options(rng, sizes, **choices)


def random_mask(rng, shape):
    """Three in four; the last query, where each has its own row, sees nothing."""
    mask = rng.random(shape) < 0.75
    if len(shape) > 1 and shape[-2] > 1:
        mask[..., -1, :] = False
    return mask


def random_bias(rng, shape):
    """One in eight is -inf, and so is all of the first query's, where each has its own row."""
    bias = np.where(rng.random(shape) < 0.125, -np.inf, rng.standard_normal(shape))
    if len(shape) > 1 and shape[-2] > 1:
        bias[..., 0, :] = -np.inf
    return bias


def attention_arrays(op, shapes, rng):
    """Arrays of the shapes, for any op of this file; kernels such that scores are near 1."""
    arrays = [None if shape is None else rng.standard_normal(shape) for shape in shapes]
    if op == "multi_head_attention":
        arrays[3:6] = [kernel / len(kernel) ** 0.5 for kernel in arrays[3:6]]
        heads, width, _ = shapes[6]
        arrays[6] = arrays[6] / (heads * width) ** 0.5
    if op in ("attention", "multi_head_attention") and shapes[-1] is not None:
        arrays[-1] = random_bias(rng, shapes[-1])
    mask = {"attention": 3, "multi_head_attention": 11, "additive_attention": 4}.get(op)
    if mask is not None and shapes[mask] is not None:
        arrays[mask] = random_mask(rng, shapes[mask])
    return arrays


def crossed(**choices):
    """32 runs in which every three of up to 16 pairs of values meet in all eight combinations.

    Choice c of run r is the parity of the bits that r and 16 + c share: three such numbers are
    linearly independent over the field of two elements.
    """
    assert len(choices) <= 16
    for run in range(32):
        yield {
            name: pair[(run & (16 + column)).bit_count() % 2]
            for column, (name, pair) in enumerate(choices.items())
        }


def described_attention_cases():
    """Arguments of `attention_case`."""
    yield {}
    for axes in ("L", "SL", "ASL", "N1SL", "N11L", "NASL", "NA11", "1A1L", "S1", "1"):
        yield {"mask": axes}
        yield {"bias": axes}
    for key_heads in (1, 2, 4):
        yield {"heads": 4, "key_heads": key_heads}
    for scale in (0.7, -1.3, 0.0):
        yield {"scale": scale}
    for offset in (0, 3, -2, 9, "each"):
        yield {"causal": True, "query_offset": offset}
        yield {"window": (1, 2), "query_offset": offset}
        yield {"alibi": True, "query_offset": offset}
    for window in (0, 2, (None, 1), (1, None), (0, 3), (None, None), (3, 0)):
        yield {"window": window}
        yield {"window": window, "causal": True, "queries": 7}
    yield {"causal": True, "queries": 8, "keys": 3}
    yield {"causal": True, "key_lengths": True}
    yield {"softcap": 0.8}
    yield {"softcap": 0.8, "bias": "SL", "alibi": True}
    yield {"dropout": 0.4, "return_weights": True}
    yield {"dropout": 0.9}
    for results in ({"return_lse": True}, {"return_weights": True}):
        yield results
        yield {**results, "mask": "SL", "bias": "SL"}
    for size in ("batch", "queries", "keys"):
        for number in (0, 1):
            both = {"return_lse": True, "return_weights": True, "bias": "NASL", "mask": "N11L"}
            yield {size: number, **both}
    yield {"width": 1, "value_width": 1, "heads": 1, "key_heads": 1}
    yield from crossed(
        causal=(False, True),
        window=(None, (3, 1)),
        mask=(None, "N1SL"),
        bias=(None, "ASL"),
        key_heads=(4, 2),
        softcap=(None, 1.5),
        alibi=(False, True),
        dropout=(0.0, 0.3),
        key_lengths=(False, True),
        query_offset=(None, "each"),
        scale=(None, 0.9),
        return_lse=(False, True),
        return_weights=(False, True),
        keys=(6, 4),
        heads=(4, 8),
        width=(3, 2),
    )


def attention_cases():
    rng = np.random.default_rng(31)
    for given in described_attention_cases():
        sizes, choices = sizes_and_choices(given)
        shapes = attention_shapes(sizes, choices.get("mask"), choices.get("bias"))
        yield "attention", shapes, attention_options(rng, sizes, **choices)


def multi_head_attention_shapes(sizes, mask=None, bias=None, biases=(True,) * 4):
    """`biases`: whether query, key, value and output have one."""
    batch, heads, key_heads = sizes["batch"], sizes["heads"], sizes["key_heads"]
    width, value_width = sizes["width"], sizes["value_width"]
    projections = (heads, width), (key_heads, width), (key_heads, value_width)
    bias_shapes = (*projections, (FEATURES["output"],))
    return [
        (batch, sizes["queries"], FEATURES["query"]),
        (batch, sizes["keys"], FEATURES["key"]),
        (batch, sizes["keys"], FEATURES["value"]),
        *((FEATURES[x], *p) for x, p in zip(("query", "key", "value"), projections, strict=True)),
        (heads, value_width, FEATURES["output"]),
        *(shape if given else None for shape, given in zip(bias_shapes, biases, strict=True)),
        pair_shape(mask, sizes),
        pair_shape(bias, sizes),
    ]


def multi_head_attention_cases():
    rng = np.random.default_rng(32)

    def case(mask=None, bias=None, biases=(True,) * 4, **given):
        sizes, choices = sizes_and_choices(given)
        shapes = multi_head_attention_shapes(sizes, mask, bias, biases)
        return "multi_head_attention", shapes, attention_options(rng, sizes, **choices)

    yield case()
    yield case(biases=(False,) * 4)
    for one in range(4):
        yield case(biases=tuple(i == one for i in range(4)), key_heads=4, heads=4)
    yield case(mask="N1SL", bias="ASL", causal=True, return_weights=True)
    yield case(mask="N11L", key_heads=1, heads=3, return_lse=True, biases=(False,) * 4)
    everything = {"softcap": 2.0, "alibi": True, "dropout": 0.3, "scale": 0.5, "window": (3, 1)}
    yield case(mask="L", bias="N1SL", key_lengths=True, query_offset="each", **everything)
    yield case(bias="SL", return_lse=True, return_weights=True, **everything)
    for size in ("batch", "queries", "keys"):
        for number in (0, 1):
            yield case(mask="N11L", **{size: number})


def additive_attention_cases():
    rng = np.random.default_rng(33)

    def case(mask=None, scale=True, **given):
        sizes, choices = sizes_and_choices({"heads": 1, **given})
        options = attention_options(rng, sizes, **choices)
        if "kept" in options:
            options["kept"] = options["kept"][:, 0]
        batch, keys, width = sizes["batch"], sizes["keys"], sizes["width"]
        shapes = [(batch, sizes["queries"], width), (batch, keys, sizes["value_width"])]
        shapes += [(batch, keys, width), (width,) if scale else None, pair_shape(mask, sizes)]
        return "additive_attention", shapes, options

    yield case()
    yield case(scale=False)
    for mask in ("L", "SL", "N1L", "NSL", "1"):
        yield case(mask)
    for offset in (None, 2, -2, "each"):
        yield case(causal=True, query_offset=offset)
    yield case("N1L", causal=True, return_weights=True, scale=False)
    yield case("NSL", dropout=0.3, return_weights=True, causal=True, query_offset="each")
    yield case(dropout=0.6)
    for size in ("batch", "queries", "keys"):
        for number in (0, 1):
            yield case("SL", return_weights=True, **{size: number})


def rotary_embedding_cases():
    for interleaved in (False, True):
        options = {"interleaved": True} if interleaved else {}
        for batch, steps, heads, width in ((3, 5, 2, 6), (1, 1, 1, 2), (0, 3, 2, 4), (2, 4, 3, 10)):
            x = (batch, steps, heads, width)
            for angles in ((steps, width // 2), (batch, steps, width // 2)):
                yield "rotary_embedding", [x, angles, angles], options


def all_attention_cases():
    yield from attention_cases()
    yield from multi_head_attention_cases()
    yield from additive_attention_cases()
    yield from rotary_embedding_cases()


ATTENTION = ("attention", "multi_head_attention", "additive_attention", "rotary_embedding")
