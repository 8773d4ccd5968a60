# SPDX-License-Identifier: MIT
"""The engine's rows: the caller's, longest first, without those of length 0.

So the rows that have a step t are the first ``active[t]``, and nothing is computed in vain. In
Cython only because a call of one step would feel the interpreter.
"""

import numpy as np

from ._memory cimport aligned

__all__ = ["by_length", "in_callers_rows", "resets_of", "sorted_input"]

_all_rows = None, None  # of the last call: calls of one shape come one after the other


def by_length(lengths, T, B):
    """How the engine orders its rows: longest first, without those of length 0.

    Returns
    -------
    order : ndarray (B',) of intp, or None
        The engine's row k is the caller's row order[k]; None: the caller's order.
    active : ndarray (T,) of intp
        How many rows have a step t. Not to be written.
    """
    global _all_rows
    if lengths is None:
        T_B, active = _all_rows  # one tuple: another thread may replace it
        if T_B != (T, B):
            active = np.full(T, B, np.intp)
            _all_rows = (T, B), active
        return None, active
    order = np.argsort(-lengths, kind="stable")[: np.count_nonzero(lengths)]
    return order, np.count_nonzero(lengths[order, None] > np.arange(T), axis=0).astype(np.intp)


def sorted_input(x, lengths, order):
    """x (T, B', I) in the engine's rows, zeros beyond a row's length."""
    x = x.take(order, axis=1)
    x[np.arange(len(x))[:, None] >= lengths[order]] = 0
    return x


def in_callers_rows(order, y, rows_y, ends, rows_ends, given):
    """Write y (T, B, .) and the final states from the engine's rows.

    Beyond a row's length y is 0; a row without a step ends with what it was ``given``, None: zeros.
    """
    y[...] = 0
    y[:, order] = rows_y
    for end, rows, initial in zip(ends, rows_ends, given):
        end[...] = 0 if initial is None else initial
        end[order] = rows


def resets_of(reset, order, active, width, dtype):
    """Where the engine's rows are reset, and memory for their cells before: None without resets.

    Returns
    -------
    index : ndarray (T, B') of intp
        -1, or the row of ``cells`` that belongs to this step's reset.
    cells : ndarray (n, width)
    """
    if reset is None:
        return None
    rows = reset if order is None else reset[:, order]
    rows = rows & (np.arange(rows.shape[1]) < active[:, None])
    index = np.where(rows, np.cumsum(rows).reshape(rows.shape) - 1, -1).astype(np.intp, "C")
    return index, aligned((np.count_nonzero(rows), width), dtype)
