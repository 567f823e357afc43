"""The reference lstm with the signature of the op, for what the layers ask of it."""

from __future__ import annotations

from typing import Any

import numpy as np
from reference import OPS

_NAMES = (
    "x", "kernel", "recurrent_kernel", "bias", "h0", "c0", "projection_kernel",
    "gamma_x", "gamma_h", "gamma_c", "beta_c",
)  # fmt: skip


def lstm(
    x: Any,
    kernel: Any,
    recurrent_kernel: Any,
    bias: Any = None,
    h0: Any = None,
    c0: Any = None,
    projection_kernel: Any = None,
    gamma_x: Any = None,
    gamma_h: Any = None,
    gamma_c: Any = None,
    beta_c: Any = None,
    **options: Any,
) -> Any:
    given = locals()
    arrays = [given[name] for name in _NAMES]
    return tuple(each.astype(np.float32) for each in OPS["lstm"].forward(*arrays, **options))


def _vjp(*arrays: Any, needs: Any = None, **options: Any) -> Any:
    arrays = (*arrays, *[None] * (len(_NAMES) - len(arrays)))
    needs = (True,) * len(arrays) if needs is None else needs
    assert len(needs) == len(arrays)

    def pullback(*dy: Any, out: Any = None) -> Any:
        gradients = list(OPS["lstm"].backward(dy, *arrays, **options))
        for i, gradient in enumerate(gradients):
            if gradient is None or not needs[i]:
                gradients[i] = None
                continue
            gradients[i] = gradient.astype(np.float32)
            if out is not None and out[i] is not None:
                out[i][...] = gradient
                gradients[i] = out[i]
        return tuple(gradients)

    return lstm(*arrays, **options), pullback


lstm.vjp = _vjp  # type: ignore[attr-defined]
