# SPDX-License-Identifier: MIT
"""Dropout masks, the same for every backend."""

from math import prod

import numpy as np

__all__ = ["dropout_mask"]

_LEVELS = 1 << 16  # 16 random bits decide about an element
_ALL_BITS = np.iinfo(np.uint64).max


def dropout_mask(rng, p, shape, dtype):
    """1 / (1 - p) with probability 1 - p, else 0: the expectation is 1 (inverted dropout).

    The probability is rounded to a multiple of 2**-16, the factor is not.

    Parameters
    ----------
    rng : numpy.random.Generator
        Draws 16 bits for each element.
    p : float, in [0, 1]
    shape : tuple of int
    dtype : dtype
        float32 or float64: the same elements are zero in both.

    Returns
    -------
    ndarray

    Examples
    --------
    >>> dropout_mask(np.random.default_rng(0), 0.5, (2, 4), "float32")
    array([[2., 2., 2., 2.],
           [2., 2., 2., 0.]], dtype=float32)
    """
    dropped = round(p * _LEVELS)
    if dropped == _LEVELS:
        return np.zeros(shape, dtype)
    n = prod(shape)
    words = rng.integers(0, _ALL_BITS, -(-n // 4), np.uint64, endpoint=True)
    kept = words.view(np.uint16)[:n].reshape(shape) >= dropped
    return kept * np.dtype(dtype).type(1 / (1 - p))
