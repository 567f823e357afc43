"""The references' precision."""

from __future__ import annotations

import numpy as np


def as_float64(*arrays):
    """The arrays as float64, in a tuple; None stays None."""
    return tuple(None if a is None else np.asarray(a, np.float64) for a in arrays)
