"""The random initializers: distributions, and variances scaled to a weight's fans."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from lamella import arguments, random, registry
from lamella.initializers.base import Initializer, Shape

# The standard deviation of a standard normal distribution cut off at -2 and 2.
_TRUNCATED_STDDEV = 0.87962566103423978


class RandomInitializer(Initializer):
    """What the random initializers share: where their values come from.

    Parameters
    ----------
    seed : int or lamella.random.SeedGenerator, optional
        An int in [0, 2**64) gives the same values at every call, as in Keras. A ``SeedGenerator``
        gives new ones at every call, repeatable from its own start. ``None`` draws from the global
        generator.
    """

    def __init__(self, seed: int | random.SeedGenerator | None = None) -> None:
        if isinstance(seed, dict):  # a SeedGenerator, serialised
            seed = registry.deserialize("seed", seed)
        if seed is not None and not isinstance(seed, random.SeedGenerator):
            seed = random.check_seed(seed, type(self).__name__)
        self.seed = seed

    def _generator(self) -> np.random.Generator:
        if self.seed is None:
            return random.generator()
        seed = self.seed.next() if isinstance(self.seed, random.SeedGenerator) else self.seed
        return np.random.Generator(np.random.PCG64(seed))

    def get_config(self) -> dict[str, Any]:
        if isinstance(self.seed, random.SeedGenerator):
            return {"seed": registry.serialize(self.seed)}
        return {"seed": self.seed}


registry.register("seed")(random.SeedGenerator)


def _normal(
    generator: np.random.Generator, shape: tuple[int, ...], mean: float, stddev: float
) -> np.ndarray:
    values = generator.standard_normal(shape, dtype=np.float32)
    values *= np.float32(stddev)
    values += np.float32(mean)
    return values


def _truncated_normal(
    generator: np.random.Generator, shape: tuple[int, ...], mean: float, stddev: float
) -> np.ndarray:
    values = generator.standard_normal(math.prod(shape), dtype=np.float32)
    outside = np.flatnonzero(np.abs(values) > 2)
    while outside.size:  # 4.6% of the draws lie outside, so a few rounds do
        values[outside] = generator.standard_normal(outside.size, dtype=np.float32)
        outside = outside[np.abs(values[outside]) > 2]
    values *= np.float32(stddev)
    values += np.float32(mean)
    return values.reshape(shape)


def _uniform(
    generator: np.random.Generator, shape: tuple[int, ...], low: float, high: float
) -> np.ndarray:
    values = generator.random(shape, dtype=np.float32)
    values *= np.float32(high - low)
    values += np.float32(low)
    return values


@registry.register("initializer", "normal")
class RandomNormal(RandomInitializer):
    """Normal distribution with the given ``mean`` and ``stddev``.

    Examples
    --------
    >>> RandomNormal(stddev=0.1, seed=1)((3, 4)).shape
    (3, 4)
    """

    def __init__(
        self,
        mean: float = 0.0,
        stddev: float = 0.05,
        seed: int | random.SeedGenerator | None = None,
    ) -> None:
        super().__init__(seed)
        self.mean = arguments.number(type(self).__name__, "mean", mean)
        self.stddev = arguments.number(type(self).__name__, "stddev", stddev)

    def _values(self, shape: tuple[int, ...]) -> np.ndarray:
        return _normal(self._generator(), shape, self.mean, self.stddev)

    def get_config(self) -> dict[str, Any]:
        return {"mean": self.mean, "stddev": self.stddev, **super().get_config()}


@registry.register("initializer")
class TruncatedNormal(RandomNormal):
    """Normal distribution whose values further than two ``stddev`` from ``mean`` are redrawn."""

    def _values(self, shape: tuple[int, ...]) -> np.ndarray:
        return _truncated_normal(self._generator(), shape, self.mean, self.stddev)


@registry.register("initializer", "uniform")
class RandomUniform(RandomInitializer):
    """Uniform distribution over [``minval``, ``maxval``)."""

    def __init__(
        self,
        minval: float = -0.05,
        maxval: float = 0.05,
        seed: int | random.SeedGenerator | None = None,
    ) -> None:
        super().__init__(seed)
        self.minval = arguments.number("RandomUniform", "minval", minval)
        self.maxval = arguments.number("RandomUniform", "maxval", maxval)
        if self.maxval < self.minval:
            raise ValueError(
                f"RandomUniform: minval expects at most maxval, "
                f"got minval={minval}, maxval={maxval}"
            )

    def _values(self, shape: tuple[int, ...]) -> np.ndarray:
        return _uniform(self._generator(), shape, self.minval, self.maxval)

    def get_config(self) -> dict[str, Any]:
        return {"minval": self.minval, "maxval": self.maxval, **super().get_config()}


def compute_fans(
    shape: Shape,
    input_axes: Sequence[int] | None = None,
    output_axes: Sequence[int] | None = None,
) -> tuple[int, int]:
    """Return how many inputs feed one output of a weight, and how many outputs one input feeds.

    A matrix is (inputs, outputs). A convolution kernel (..., in, out) counts every tap of its
    window: fan_in = taps * in, fan_out = taps * out. For other weights ``input_axes`` and
    ``output_axes``, given both, name the axes whose sizes are multiplied.

    Examples
    --------
    >>> compute_fans((20, 30))
    (20, 30)
    >>> compute_fans((3, 3, 16, 32))
    (144, 288)
    >>> compute_fans((64, 8, 16), input_axes=[0], output_axes=[1, 2])
    (64, 128)
    """
    sizes = [int(size) for size in shape]
    if input_axes is not None and output_axes is not None:
        return (
            math.prod(sizes[axis] for axis in input_axes),
            math.prod(sizes[axis] for axis in output_axes),
        )
    if len(sizes) < 2:
        fan = sizes[0] if sizes else 1
        return fan, fan
    taps = math.prod(sizes[:-2])
    return taps * sizes[-2], taps * sizes[-1]


@registry.register("initializer")
class VarianceScaling(RandomInitializer):
    """Random values whose variance is ``scale / fan``, so that signals keep their size.

    Parameters
    ----------
    scale : float
        Positive.
    mode : {"fan_in", "fan_out", "fan_avg"}
        What the variance is divided by; see :func:`compute_fans`.
    distribution : {"truncated_normal", "untruncated_normal", "uniform"}
        ``"normal"`` is another name of the first. The truncated one is widened so that the
        variance after truncation is right.
    seed : int or lamella.random.SeedGenerator, optional
        See :class:`RandomInitializer`.
    input_axes, output_axes : sequence of int, optional
        The axes that :func:`compute_fans` multiplies, both or none.

    Raises
    ------
    ValueError
        If an argument is none of these.
    """

    def __init__(
        self,
        scale: float = 1.0,
        mode: str = "fan_in",
        distribution: str = "truncated_normal",
        seed: int | random.SeedGenerator | None = None,
        input_axes: Sequence[int] | None = None,
        output_axes: Sequence[int] | None = None,
    ) -> None:
        super().__init__(seed)
        name = type(self).__name__
        if (input_axes is None) != (output_axes is None):
            raise ValueError(f"{name}: input_axes and output_axes go together")
        self.input_axes = input_axes
        self.output_axes = output_axes
        self.scale = arguments.number(name, "scale", scale, 0, exclude=[0])
        self.mode = arguments.choice(name, "mode", mode, ("fan_in", "fan_out", "fan_avg"))
        if distribution == "normal":
            distribution = "truncated_normal"
        self.distribution = arguments.choice(
            name,
            "distribution",
            distribution,
            ("truncated_normal", "untruncated_normal", "uniform"),
        )

    def _values(self, shape: tuple[int, ...]) -> np.ndarray:
        fan_in, fan_out = compute_fans(shape, self.input_axes, self.output_axes)
        fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[self.mode]
        variance = self.scale / max(1.0, fan)
        if self.distribution == "uniform":
            limit = math.sqrt(3 * variance)
            return _uniform(self._generator(), shape, -limit, limit)
        stddev = math.sqrt(variance)
        if self.distribution == "untruncated_normal":
            return _normal(self._generator(), shape, 0.0, stddev)
        return _truncated_normal(self._generator(), shape, 0.0, stddev / _TRUNCATED_STDDEV)

    def get_config(self) -> dict[str, Any]:
        return {
            "scale": self.scale,
            "mode": self.mode,
            "distribution": self.distribution,
            **super().get_config(),
            "input_axes": self.input_axes,
            "output_axes": self.output_axes,
        }


class _NamedScaling(VarianceScaling):
    """A variance scaling with a name, its first three arguments fixed."""

    _arguments: tuple[float, str, str]

    def __init__(
        self,
        seed: int | random.SeedGenerator | None = None,
        input_axes: Sequence[int] | None = None,
        output_axes: Sequence[int] | None = None,
    ) -> None:
        super().__init__(*self._arguments, seed, input_axes, output_axes)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        for argument in ("scale", "mode", "distribution"):
            del config[argument]
        return config


@registry.register("initializer", "xavier_uniform")
class GlorotUniform(_NamedScaling):
    """Uniform in +-sqrt(6 / (fan_in + fan_out)): Glorot and Bengio 2010; Keras' default."""

    _arguments = (1.0, "fan_avg", "uniform")


@registry.register("initializer", "xavier_normal")
class GlorotNormal(_NamedScaling):
    """Truncated normal of variance 2 / (fan_in + fan_out): Glorot and Bengio 2010."""

    _arguments = (1.0, "fan_avg", "truncated_normal")


@registry.register("initializer")
class HeUniform(_NamedScaling):
    """Uniform in +-sqrt(6 / fan_in), for relu: He et al. 2015."""

    _arguments = (2.0, "fan_in", "uniform")


@registry.register("initializer")
class HeNormal(_NamedScaling):
    """Truncated normal of variance 2 / fan_in, for relu: He et al. 2015."""

    _arguments = (2.0, "fan_in", "truncated_normal")


@registry.register("initializer")
class LecunUniform(_NamedScaling):
    """Uniform in +-sqrt(3 / fan_in): LeCun et al. 1998."""

    _arguments = (1.0, "fan_in", "uniform")


@registry.register("initializer")
class LecunNormal(_NamedScaling):
    """Truncated normal of variance 1 / fan_in: LeCun et al. 1998."""

    _arguments = (1.0, "fan_in", "truncated_normal")


@registry.register("initializer", "OrthogonalInitializer")
class Orthogonal(RandomInitializer):
    """``gain`` times a random matrix with orthonormal columns, or rows where those are fewer.

    A shape of more than two axes is taken as a matrix of its last axis by the product of the
    others (Saxe et al. 2014).

    Raises
    ------
    ValueError
        If called with a shape of fewer than two axes.

    Examples
    --------
    >>> q = Orthogonal(seed=1)((5, 3))
    >>> bool(np.allclose(q.T @ q, np.eye(3), atol=1e-6))
    True
    """

    def __init__(self, gain: float = 1.0, seed: int | random.SeedGenerator | None = None) -> None:
        super().__init__(seed)
        self.gain = arguments.number("Orthogonal", "gain", gain)

    def _values(self, shape: tuple[int, ...]) -> np.ndarray:
        if len(shape) < 2:
            raise ValueError(f"Orthogonal: shape expects two axes or more, got {shape}")
        rows, columns = math.prod(shape[:-1]), shape[-1]
        normal = self._generator().standard_normal((max(rows, columns), min(rows, columns)))
        q, r = np.linalg.qr(normal)
        # The signs of r's diagonal are the algorithm's choice; fixing them makes q uniform.
        q *= np.sign(np.diag(r))
        return self.gain * (q.T if rows < columns else q).reshape(shape)

    def get_config(self) -> dict[str, Any]:
        return {"gain": self.gain, **super().get_config()}
