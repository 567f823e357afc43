"""Results with one thing wrong, each of which a tolerance worth having has to notice."""

from __future__ import annotations

import numpy as np

from . import OPS


def rounded_to_bits(a, bits):
    """a with `bits` fraction bits: 7 is bfloat16, 10 TF32."""
    mantissa, exponent = np.frexp(a)
    return np.ldexp(np.round(np.ldexp(mantissa, bits + 1)), exponent - bits - 1)


def imprecise_results():
    """Yield (what is wrong, op, actual, expected, terms of the sums)."""
    rng = np.random.default_rng(5)
    x, kernel = rng.standard_normal((30, 1152)), rng.standard_normal((1152, 8))
    yield "one dropped term", "conv2d", x[:, 1:] @ kernel[1:], x @ kernel, 1152
    for name, bits in (("bfloat16", 7), ("TF32", 10)):
        low = rounded_to_bits(x, bits) @ rounded_to_bits(kernel, bits)
        yield f"{name} operands", "conv2d", low, x @ kernel, 1152

    logits = rng.standard_normal((30, 100)) * 3
    y = OPS["softmax"].forward(logits)
    noise = 1.0 + 1e-5 * rng.uniform(-1, 1, y.shape)
    yield "exp good to 1e-5", "softmax", y * noise, y, 100
    yield "sum without its last term", "softmax", y / (1 - y[:, -1:]), y, 100
    small = rng.uniform(-1e-3, 1e-3, 300)
    one = np.float32(1.0)
    yield "exp(x) - 1", "elu", np.exp(np.float32(small)) - one, OPS["elu"].forward(small), 1
    tail = np.linspace(-30, -10, 300)
    naive = np.log(one + np.exp(np.float32(tail)))
    yield "log(1 + exp(x))", "softplus", naive, OPS["softplus"].forward(tail), 1
    naive = one - np.float32(1 / (1 + np.exp(tail)))
    yield "1 - sigmoid(-x)", "sigmoid", naive, OPS["sigmoid"].forward(tail), 1
    x = np.linspace(-4, 4, 300)
    exact, by_tanh = (OPS["gelu"].forward(x, approximate=choice) for choice in (False, True))
    yield "the other formula", "gelu", by_tanh, exact, 1

    rows = rng.standard_normal((2000, 3))
    y, _, variance = OPS["batch_norm"].forward(rows)
    yield "unbiased variance", "batch_norm", y * np.sqrt(1999 / 2000), y, 2000
    yield "epsilon 1e-5", "batch_norm", y * np.sqrt((variance + 1e-3) / (variance + 1e-5)), y, 2000
    for op, options in (("layer_norm", {}), ("group_norm", {"groups": 4})):
        x = rng.standard_normal((30, 64, 16)) + 1.0
        y = OPS[op].forward(x, **options)
        other = OPS[op].forward(x, epsilon=1e-5, **options)
        terms = 16 if op == "layer_norm" else 256
        yield "epsilon 1e-5", op, other, y, terms
        yield "unbiased variance", op, y * np.sqrt((terms - 1) / terms), y, terms
    y = OPS["rms_norm"].forward(rows)
    yield "epsilon 0", "rms_norm", OPS["rms_norm"].forward(rows, epsilon=0.0), y, 3
    p, labels = rng.uniform(0.1, 1.0, (30, 10)), np.arange(30) % 10
    loss = OPS["sparse_categorical_crossentropy"].forward(p, labels)
    yield "clip added to p", "sparse_categorical_crossentropy", loss - 1e-5, loss, 10
    x = rng.standard_normal((2, 4, 4, 3))
    y = OPS["max_pool2d"].forward(x.astype(np.float32))
    yield "one ulp off", "max_pool2d", y * (1 + 2.0**-23), y, 4
    yield "one ulp off", "add", y * (1 + 2.0**-22), y, 1
    yield from imprecise_recurrence(rng)
    yield from imprecise_attention(rng)
    g = rng.standard_normal(50)
    v = np.float64(np.float32(1) - np.float32(0.999)) * g**2
    yield "1 - beta_2 in float32", "adam_", v, (1 - 0.999) * g**2, 1
    many = rng.standard_normal(10000)
    yield "sum in float32", "squared_norm", np.float32((many**2).sum()), (many**2).sum(), 10000


def imprecise_recurrence(rng):
    x, h, c = rng.standard_normal((3, 40, 9)), *rng.standard_normal((2, 3, 24))
    kernels = [rng.standard_normal((size, 96)) / np.sqrt(9 + 24) for size in (9, 24)]
    outputs, _, _ = OPS["lstm"].forward(x, *kernels, None, h, c)
    rounded = [rounded_to_bits(a, 10) for a in (x, *kernels)]
    yield "TF32 operands", "lstm", OPS["lstm"].forward(*rounded, None, h, c)[0], outputs, 33
    steps = []
    for t in range(40):
        h, c = OPS["lstm_cell"].forward(x[:, t], h, c, *kernels)
        h = rounded_to_bits(h, 7)
        steps.append(h)
    yield "h kept in bfloat16", "lstm", np.stack(steps, axis=1), outputs, 33

    new, _ = OPS["lstm_cell"].forward(x[:, 0], h, c, *kernels)
    noise = 1.0 + 1e-5 * rng.uniform(-1, 1, new.shape)
    yield "exp good to 1e-5", "lstm_cell", new * noise, new, 33
    kernels = [kernel[:, :72] for kernel in kernels]
    outputs, _ = OPS["gru"].forward(x, *kernels)
    other, _ = OPS["gru"].forward(x, *kernels, reset_after=False)
    yield "reset before the product", "gru", other, outputs, 33
    kernels = [kernel[:, :24] for kernel in kernels]
    outputs, _ = OPS["simple_rnn"].forward(x, *kernels)
    without, _ = OPS["simple_rnn"].forward(
        x, *kernels, x_scale=np.ones((3, 1)) * (np.arange(9) > 0)
    )
    yield "one dropped term", "simple_rnn", without, outputs, 33
    table = rng.standard_normal((5, 4)).astype(np.float32)
    rows = OPS["embedding"].forward([3, 1], table)
    yield "one ulp off", "embedding", rows * (1 + 2.0**-23), rows, 1


def imprecise_attention(rng):
    arrays = q, k, v = [rng.standard_normal((2, length, 4, 32)) for length in (40, 60, 60)]
    forward = OPS["attention"].forward
    y, w = forward(*arrays, return_weights=True)

    def weighted(w):
        return np.einsum("nasl,nlav->nsav", w, v)

    noise = 1.0 + 1e-5 * rng.uniform(-1, 1, w.shape)
    yield "exp good to 1e-5", "attention", weighted(w * noise), y, 92
    yield "bfloat16 probabilities", "attention", weighted(rounded_to_bits(w, 7)), y, 92
    yield "TF32 operands", "attention", forward(*(rounded_to_bits(a, 10) for a in arrays)), y, 92
    yield "sum without its last term", "attention", y / (1 - w[..., -1:].swapaxes(1, 2)), y, 92
    low = forward(*arrays, scale=rounded_to_bits(32**-0.5, 7))
    yield "scale in bfloat16", "attention", low, y, 92
    yield "softcap left out", "attention", y, forward(*arrays, softcap=100.0), 92

    x = [rng.standard_normal((2, length, 64)) for length in (40, 60, 60)]
    kernels = [rng.standard_normal((64, 4, 16)) / 8 for _ in range(3)]
    output_kernel = rng.standard_normal((4, 16, 64)) / 8
    forward = OPS["multi_head_attention"].forward
    y = forward(*x, *kernels, output_kernel)
    low = [rounded_to_bits(kernel, 10) for kernel in kernels]
    yield "TF32 kernels", "multi_head_attention", forward(*x, *low, output_kernel), y, 204

    query, value, key = (a[:, :, 0] for a in (q, v, k))
    scale = rng.standard_normal(32)
    forward = OPS["additive_attention"].forward
    y, w = forward(query, value, key, scale, return_weights=True)
    yield "exp good to 1e-5", "additive_attention", (w * noise[:, 0]) @ value, y, 92
    low = rounded_to_bits(scale, 10)
    yield "TF32 scale", "additive_attention", forward(query, value, key, low), y, 92

    angles = np.arange(40.0)[:, None] / 10000.0 ** (np.arange(16) / 16)
    cos, sin = np.cos(angles), np.sin(angles)
    y = OPS["rotary_embedding"].forward(q, cos, sin)
    low = OPS["rotary_embedding"].forward(q, cos, rounded_to_bits(sin, 20))
    yield "sin good to 1e-6", "rotary_embedding", low, y, 1
