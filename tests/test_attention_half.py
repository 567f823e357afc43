"""Attention of bfloat16 and float16 on the device's tensor cores: tests/attention.

The program is attention_half.cu, on the executor; the reference has float64 and the same rounded
arguments.
"""

from __future__ import annotations

import subprocess

import attention_checks
import numpy as np
import pytest
from device_programs import COMPILER, command
from reference import OPS

# Of the largest element of a result: weights, and gradients of scores, are rounded to 8 or 11 bits
# before products with them, results after: two roundings of half a unit each, with as much to spare
# for the sums in between.
UNITS = {"bfloat16": 2.0**-7, "float16": 2.0**-10}
# As tests/reference takes them: (N, S, L, A, K, E, Ev), options, shapes of mask and bias.
CASES = [
    ((1, 64, 64, 1, 1, 64, 64), {}, None, None),
    ((2, 100, 130, 2, 1, 64, 32), {}, None, None),
    ((1, 130, 200, 1, 1, 128, 128), {"causal": True}, None, None),
    ((1, 200, 140, 4, 2, 40, 64), {"causal": True, "query_offset": 5}, None, None),
    ((2, 70, 90, 2, 2, 96, 120), {"window": (20, 10), "query_offset": 3}, None, None),
    ((2, 300, 77, 2, 2, 64, 64), {"key_lengths": np.array([0, 50])}, None, None),
    ((1, 65, 129, 2, 2, 128, 64), {"softcap": 2.0, "scale": 0.3}, (65, 129), (1, 2, 65, 129)),
    ((2, 33, 70, 2, 1, 8, 16), {"dropout": 0.3, "alibi": True}, (2, 1, 1, 70), (2, 65 - 32, 1)),
    ((1, 150, 150, 1, 1, 128, 128), {"dropout": 0.2, "causal": True, "scale": -0.1}, None, None),
]

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    output = tmp_path_factory.mktemp("attention") / "attention_half"
    subprocess.run(command("attention/attention_half.cu", output), check=True)
    return output


def rounded(values, kind):
    """To the nearest of the type, ties to even, as float32."""
    values = np.asarray(values, np.float32)
    if kind == "float16":
        return values.astype(np.float16).astype(np.float32)
    bits = values.view(np.uint32)
    nan = np.isnan(values)
    bits = (bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)
    return np.where(nan, np.float32(np.nan), bits.view(np.float32))


def strides_of(array):
    """In elements, 0 along axes of 1."""
    if array is None:
        return [0] * 4
    sizes = (1,) * (4 - array.ndim) + array.shape
    strides = [int(np.prod(sizes[i + 1 :])) for i in range(4)]
    return [0 if size == 1 else stride for size, stride in zip(sizes, strides, strict=True)]


def run(program, kind, arrays, dy, dlse, options, capability="90"):
    query, key, value, mask, bias = arrays
    batch, queries, heads, size = query.shape
    _, keys, key_heads, value_size = value.shape
    window = options.get("window", (-1, -1))
    right = 0 if options.get("causal") else window[1]
    slopes = options.get("alibi_slopes")
    seed = options.get("seed", 0)
    parts = [
        np.int64([batch, queries, keys, heads, key_heads, size, value_size]),
        np.int64([options.get("query_offset", keys - queries), window[0], right]),
        np.int64([options.get("dropout", 0) > 0, seed]),
        np.float64(
            [
                options.get("scale", 1 / np.sqrt(size)),
                options.get("softcap", 0),
                options.get("dropout", 0),
            ]
        ),
        np.int64([0 if a is None else a.size for a in (mask, bias, slopes)]),
        np.int64(strides_of(mask) + strides_of(bias)),
        *(np.float32(a) for a in (query, key, value, dy, dlse)),
        np.zeros(0) if mask is None else mask.astype(np.uint8),
        np.zeros(0) if bias is None else np.float32(bias),
        np.zeros(0) if slopes is None else np.float32(slopes),
        np.int64(options.get("key_lengths", [-1] * batch)),
    ]
    result = subprocess.run(
        [str(program), kind],
        input=b"".join(part.tobytes() for part in parts),
        capture_output=True,
        env={"LAMELLA_SIMT_CAPABILITY": capability},
    )
    assert result.returncode == 0, (result.returncode, result.stderr.decode()[-2000:])
    values = np.frombuffer(result.stdout, np.float32)
    shapes = [(batch, queries, heads, value_size), (batch, heads, queries)]
    shapes += [query.shape, key.shape, value.shape]
    ends = np.cumsum([0] + [int(np.prod(s)) for s in shapes])
    assert len(values) == ends[-1]
    return [values[a:b].reshape(s) for a, b, s in zip(ends[:-1], ends[1:], shapes, strict=True)]


def draw(rng, kind, sizes, options, mask, bias):
    batch, queries, keys, heads, key_heads, size, value_size = sizes
    shapes = [(batch, queries, heads, size), (batch, keys, key_heads, size)]
    shapes.append((batch, keys, key_heads, value_size))
    arrays = [rounded(rng.standard_normal(shape), kind) for shape in shapes]
    arrays.append(None if mask is None else rng.random(mask) < 0.7)
    arrays.append(None if bias is None else np.float32(rng.standard_normal(bias)))
    options = dict(options)
    if options.pop("alibi", False):
        options["alibi_slopes"] = np.float32(rng.uniform(0.01, 0.1, heads))
    dy = rounded(rng.standard_normal((batch, queries, heads, value_size)), kind)
    dlse = np.float32(rng.standard_normal((batch, heads, queries)))
    return arrays, options, dy, dlse


@pytest.mark.parametrize("kind", UNITS)
@pytest.mark.parametrize("case", range(len(CASES)))
def test_against_the_reference(case, kind, program, rng):
    sizes, options, mask, bias = CASES[case]
    arrays, options, dy, dlse = draw(rng, kind, sizes, options, mask, bias)
    shape = (sizes[0], sizes[3], sizes[1], sizes[2])
    options, reference = attention_checks.options_of("attention", options, shape)
    results = run(program, kind, arrays, dy, dlse, options)
    y, lse = OPS["attention"].forward(*arrays, **reference, return_lse=True)
    gradients = OPS["attention"].backward((dy, dlse), *arrays, **reference, return_lse=True)
    expected = [y, lse / np.log(2.0), *gradients[:3]]
    for name, result, right in zip(("y", "lse", "dq", "dk", "dv"), results, expected, strict=True):
        np.testing.assert_array_equal(np.isneginf(result), np.isneginf(right))
        finite = np.isfinite(right)
        error = np.abs(result[finite] - right[finite]).max(initial=0)
        largest = np.abs(right[finite]).max(initial=0.1)
        print(f"{kind} {name}: {error / largest / UNITS[kind]:.2f} units")
        assert error <= UNITS[kind] * largest, name


# Other tiles; no bfloat16 on 7.5, and there only heads of 64.
@pytest.mark.parametrize(
    ("capability", "kind", "size"),
    [("75", "float16", 64), *((c, k, 128) for c in ("80", "86") for k in UNITS)],
)
def test_on_smaller_devices(capability, kind, size, program, rng):
    arrays, options, dy, dlse = draw(rng, kind, (1, 140, 150, 2, 2, size, size), {}, None, None)
    same = run(program, kind, arrays, dy, dlse, options, capability)
    for result, expected in zip(same, run(program, kind, arrays, dy, dlse, options), strict=True):
        np.testing.assert_allclose(result, expected, atol=UNITS[kind] * np.abs(expected).max())


@pytest.mark.parametrize("kind", UNITS)
@pytest.mark.parametrize("junk", [np.nan, np.inf, -np.inf])
def test_what_is_hidden_influences_nothing(junk, kind, program, rng):
    sizes = (2, 70, 140, 2, 1, 64, 64)
    arrays, options, dy, dlse = draw(rng, kind, sizes, {}, (2, 1, 70, 140), (2, 1, 70, 140))
    mask = arrays[3]
    mask[0, :, 35] = False
    hidden = np.arange(140) % 3 == 1
    mask[..., hidden] = False
    expected = run(program, kind, arrays, dy, dlse, options)
    spoiled = [a.copy() for a in arrays]
    spoiled[0][0, 35] = junk
    spoiled[1][:, hidden] = junk
    spoiled[2][:, hidden] = junk
    spoiled[4][~mask] = junk
    dy[0, 35] = junk
    for result, right in zip(run(program, kind, spoiled, dy, dlse, options), expected, strict=True):
        np.testing.assert_allclose(
            result, right, atol=1e-6 * np.abs(right[np.isfinite(right)]).max()
        )


@pytest.mark.parametrize("kind", UNITS)
def test_a_visible_infinity_shows(kind, program, rng):
    arrays, options, dy, dlse = draw(rng, kind, (1, 70, 130, 1, 1, 64, 64), {}, None, None)
    options["causal"], options["query_offset"] = True, 60
    arrays[2][0, 100, 0, 3] = np.inf
    arrays[2][0, 101, 0, 4] = -np.inf
    arrays[2][0, 101, 0, 3] = -np.inf
    arrays[2][0, 102, 0, 5] = np.nan
    y = run(program, kind, arrays, dy, dlse, options)[0][0, :, 0]
    assert np.isfinite(np.delete(y, [3, 4, 5], axis=1)).all()
    assert np.isfinite(y[:40]).all() and np.isposinf(y[40, 3]) and np.isnan(y[41:, 3]).all()
    assert np.isfinite(y[:41, 4]).all() and np.isneginf(y[41:, 4]).all()
    assert np.isfinite(y[:42, 5]).all() and np.isnan(y[42:, 5]).all()
