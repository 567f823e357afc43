"""Names of layers: conv2d, conv2d_1, ... counted per process, as Keras counts them."""

from __future__ import annotations

import re

_counts: dict[str, int] = {}


def snake_case(class_name: str) -> str:
    """Return Keras' spelling of a class name: Conv2D -> conv2d, ReLU -> re_lu.

    Examples
    --------
    >>> snake_case("SpatialDropout2D"), snake_case("Conv2DTranspose"), snake_case("ReLU")
    ('spatial_dropout2d', 'conv2d_transpose', 're_lu')
    """
    name = re.sub(r"\W+", "", class_name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def unique_name(prefix: str) -> str:
    """Return ``prefix`` the first time, then ``prefix_1``, ``prefix_2``, ..."""
    count = _counts.get(prefix, 0)
    _counts[prefix] = count + 1
    return f"{prefix}_{count}" if count else prefix


def reset_names() -> None:
    """Start all counters again, as in a fresh process."""
    _counts.clear()
