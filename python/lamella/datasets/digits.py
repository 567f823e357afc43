"""1,797 handwritten digits that come with the package: train something without a download."""

from __future__ import annotations

import hashlib
import io
from importlib import resources
from typing import Any, TypeAlias

import numpy as np

from lamella import arguments, random

Part: TypeAlias = tuple[np.ndarray, np.ndarray]

_FILE = "digits.npz"
_SHA256 = "b2dab7b501728c22e9119ad76740b2e17c77a231e42d1e592380d90886f1a05e"
_PIXELS = 8
_LARGEST_VALUE = 16  # a pixel counts the set points in a 4x4 block of the scan
_LARGEST_SIZE = 256


def load_digits(
    size: int = _PIXELS,
    *,
    test_fraction: float = 0.2,
    split: bool = True,
    seed: int = 1,
) -> Any:
    """Return the digits as ``(x_train, y_train), (x_test, y_test)``.

    The images are the test part of "Optical Recognition of Handwritten Digits" (E. Alpaydin,
    C. Kaynak, 1998, UCI Machine Learning Repository, doi 10.24432/C50P49, CC BY 4.0), as
    distributed with scikit-learn: 43 people's digits were scanned, these are 13 people's.

    Parameters
    ----------
    size : int
        Height and width of the images. 8 gives the original pixels. From 10 to 256 they are
        enlarged by cubic interpolation and centred in a black border of ``size // 7`` pixels:
        28 gives 20 x 20 pixels in 28 x 28, the format of MNIST.
    test_fraction : float
        The share of the test part, in (0, 1). It is the same for every digit.
    split : bool
        False returns all images as one pair ``(x, y)``, in the order of the original file.
    seed : int
        Which images are the test part. The same everywhere for one seed; what a small network
        reaches differs by about a percent from seed to seed, as the hard images fall on one side
        or the other.

    Returns
    -------
    (x_train, y_train), (x_test, y_test) : pairs of arrays
        x : float32 (n, size, size, 1) in [0, 1], ink is 1; y : int64 (n,), the digits 0 to 9.

    Raises
    ------
    ValueError
        If an argument is out of range, or the data file is damaged.

    Examples
    --------
    >>> (x_train, y_train), (x_test, y_test) = load_digits(size=28)
    >>> x_train.shape, x_test.shape
    ((1438, 28, 28, 1), (359, 28, 28, 1))
    """
    if not isinstance(size, (int, np.integer)) or not (
        size == _PIXELS or 10 <= size <= _LARGEST_SIZE
    ):
        raise ValueError(
            f"load_digits: size expects {_PIXELS} or an integer from 10 to {_LARGEST_SIZE}, "
            f"got {size!r}"
        )
    arguments.number("load_digits", "test_fraction", test_fraction, 0, 1, exclude=[0, 1])
    seed = random.check_seed(seed, "load_digits")
    images, labels = _read()
    x = (images / _LARGEST_VALUE)[..., None]
    if size != _PIXELS:
        x = _enlarge(x, int(size))
    x = x.astype(np.float32)
    if not split:
        return x, labels
    test = _choose_test(labels, test_fraction, seed)
    return (x[~test], labels[~test]), (x[test], labels[test])


def _read() -> Part:
    """Return the original images, uint8 (1797, 8, 8), and the digits, int64 (1797,)."""
    raw = resources.files(__package__).joinpath(_FILE).read_bytes()
    if hashlib.sha256(raw).hexdigest() != _SHA256:
        raise ValueError(f"load_digits: {_FILE} is damaged; install lamella anew")
    with np.load(io.BytesIO(raw), allow_pickle=False) as arrays:
        return arrays["images"], arrays["labels"].astype(np.int64)


def _enlarge(x: np.ndarray, size: int) -> np.ndarray:
    """Interpolate images (n, 8, 8, 1) in [0, 1] cubically to (n, size, size, 1) with a border."""
    border = size // 7
    weights = _cubic_weights(size - 2 * border)
    # A cubic through steep edges overshoots a little.
    enlarged = np.clip(weights @ x[..., 0] @ weights.T, 0, 1)
    return np.pad(enlarged, ((0, 0), (border, border), (border, border)))[..., None]


def _cubic_weights(count: int) -> np.ndarray:
    """Return the matrix (count, 8) that interpolates 8 values at ``count`` places between them.

    Catmull and Rom's cubic through the four nearest values (Keys 1981, a = -1/2); beyond the rim
    the last value repeats.
    """
    # Where the new pixels' centres lie among the old ones'.
    place = (np.arange(count) + 0.5) * _PIXELS / count - 0.5
    left = np.floor(place).astype(int)
    t = place - left
    shares = (
        ((2 - t) * t - 1) * t / 2,
        ((3 * t - 5) * t * t + 2) / 2,
        ((4 - 3 * t) * t + 1) * t / 2,
        (t - 1) * t * t / 2,
    )
    weights = np.zeros((count, _PIXELS))
    for offset, share in enumerate(shares, start=-1):
        source = np.clip(left + offset, 0, _PIXELS - 1)
        np.add.at(weights, (np.arange(count), source), share)
    return weights


def _choose_test(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Return a mask of the test images: the same share of every digit, drawn by ``seed``."""
    # The bit stream of PCG64 is fixed for good, unlike NumPy's ways to shuffle: the parts are the
    # same with every version.
    draws = np.random.PCG64(seed).random_raw(labels.size)
    test = np.zeros(labels.size, bool)
    for digit in range(10):
        places = np.flatnonzero(labels == digit)
        taken = round(places.size * fraction)
        test[places[np.argsort(draws[places], kind="stable")[:taken]]] = True
    return test
