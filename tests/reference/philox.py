"""Philox4x32-10 in plain NumPy, and the dropout mask made of it.

Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

import numpy as np

_MASK = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def philox4x32(counter, key):
    """Ten rounds. counter: (..., 4) uint32, key: (..., 2) uint32 -> (..., 4) uint32."""
    c = [np.asarray(counter)[..., i].astype(np.uint64) for i in range(4)]
    k = [np.asarray(key)[..., i].astype(np.uint64) for i in range(2)]
    for _ in range(10):
        p0 = np.uint64(0xD2511F53) * c[0]
        p1 = np.uint64(0xCD9E8D57) * c[2]
        c = [(p1 >> _HALF) ^ c[1] ^ k[0], p1 & _MASK, (p0 >> _HALF) ^ c[3] ^ k[1], p0 & _MASK]
        k = [(k[0] + np.uint64(0x9E3779B9)) & _MASK, (k[1] + np.uint64(0xBB67AE85)) & _MASK]
    return np.stack(c, axis=-1).astype(np.uint32)


def words(seed, size):
    """The first `size` words of the stream of a 64-bit seed: four for each counter from 0 on."""
    counters = np.zeros(((size + 3) // 4, 4), np.uint64)
    counters[:, 0] = np.arange(len(counters), dtype=np.uint64) & _MASK
    counters[:, 1] = np.arange(len(counters), dtype=np.uint64) >> _HALF
    key = np.array([seed & 0xFFFFFFFF, seed >> 32], np.uint64)
    return philox4x32(counters, key).reshape(-1)[:size]


def kept(seed, rate, size):
    """Which elements dropout keeps: those whose word is below (1 - rate) 2^32."""
    return words(seed, size) < np.uint64(int((1.0 - rate) * 2**32))
