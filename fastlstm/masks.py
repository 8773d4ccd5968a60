# SPDX-License-Identifier: MIT
"""Dropout masks, the same for every backend."""

from math import prod

import numpy as np

__all__ = ["cell_masks", "dropout_mask"]

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
    if p == 1:
        return np.zeros(shape, dtype)
    return _kept(rng, p, shape) * np.dtype(dtype).type(1 / (1 - p))


def _kept(rng, p, shape):
    """True with probability 1 - p."""
    dropped = round(p * _LEVELS)
    if dropped == _LEVELS:
        return np.zeros(shape, bool)
    n = prod(shape)
    words = rng.integers(0, _ALL_BITS, -(-n // 4), np.uint64, endpoint=True)
    return words.view(np.uint16)[:n].reshape(shape) >= dropped


def cell_masks(spec, rng, shape, P, dtype):
    """The random masks of one layer in one direction, drawn in this order.

    Parameters
    ----------
    spec : Spec
    rng : numpy.random.Generator, dict or None
        None: inference, there are no masks. A dict: the masks that were drawn before.
    shape : tuple (T, B, H)
    P : int
        The size of h: P, or H.
    dtype : dtype
        float32 or float64: the same elements are zero in both.

    Returns
    -------
    dict of str to ndarray
        By the fields of ``spec``, those that are not 0: zoneout_h (T, B, P) and zoneout_c
        (T, B, H) of bool, True where the new state is taken; recurrent_dropout (B, P) on h or
        (B, H) on the candidate, and weight_drop (4H, P), as of `dropout_mask`.

    Examples
    --------
    >>> from fastlstm import Spec
    >>> masks = cell_masks(Spec(zoneout_h=0.5), np.random.default_rng(0), (1, 1, 4), 4, "float32")
    >>> masks["zoneout_h"]
    array([[[ True,  True,  True,  True]]])
    """
    T, B, H = shape
    if rng is None or isinstance(rng, dict):
        return rng or {}
    masks = {}
    if spec.zoneout_h:
        masks["zoneout_h"] = _kept(rng, spec.zoneout_h, (T, B, P))
    if spec.zoneout_c:
        masks["zoneout_c"] = _kept(rng, spec.zoneout_c, (T, B, H))
    if spec.recurrent_dropout:
        size = P if spec.recurrent_dropout_on == "h" else H
        masks["recurrent_dropout"] = dropout_mask(rng, spec.recurrent_dropout, (B, size), dtype)
    if spec.weight_drop:
        masks["weight_drop"] = dropout_mask(rng, spec.weight_drop, (4 * H, P), dtype)
    return masks
