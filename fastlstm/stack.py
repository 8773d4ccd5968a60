# SPDX-License-Identifier: MIT
"""Layers on layers, directions side by side: the loop around the cells, both ways.

    x -> [layer 0 forwards | backwards] * mask -> [layer 1 forwards | backwards] -> y

A cell is one layer in one direction; the states of all cells lie in one array, cell
``layer * D + direction`` after the other, as PyTorch has them. All arrays were checked before.
"""

import numpy as np

__all__ = ["stack_backward", "stack_forward"]


def stack_forward(cells, x, h0, c0, *, lengths, masks, save, out=None):
    """The outputs, the final states and the tapes of a stack of LSTM layers.

    Parameters
    ----------
    cells : list of L lists of D pairs (direction, dict)
        What `backend.direction` gave, and its weights by the names of `lstm_forward`.
        D = 2: the second runs in reverse.
    x : ndarray (T, B, I), float32 or float64
    h0, c0 : ndarray (L*D, B, H|P), (L*D, B, H), or None: zeros
    lengths : ndarray (B,) of intp, or None
    masks : list of L arrays (T, B, D*(H|P)) or None
        What multiplies the output of each layer: dropout.
    save : bool
        Whether a backward pass follows.
    out : ndarray (T, B, D*(H|P)), optional
        Write y here.

    Returns
    -------
    y : ndarray (T, B, D*(H|P))
    h_n, c_n : ndarray (L*D, B, H|P), (L*D, B, H)
    tapes : list of L lists of D tapes
        None each without ``save``.
    """
    (T, B, _), L, D = x.shape, len(cells), len(cells[0])
    rows, P = cells[0][0][1]["w_hh"].shape
    h_n, c_n = np.empty((L * D, B, P), x.dtype), np.empty((L * D, B, rows // 4), x.dtype)
    tapes = []
    for layer, directions in enumerate(cells):
        y = out if out is not None and layer == L - 1 else np.empty((T, B, D * P), x.dtype)
        tapes.append([])
        for d, (cell, weights) in enumerate(directions):
            k = layer * D + d
            tapes[-1].append(cell.forward(
                x, weights, None if h0 is None else h0[k], None if c0 is None else c0[k],
                y if D == 1 else y[:, :, d * P : (d + 1) * P], h_n[k], c_n[k], lengths, d == 1,
                save,
            ))  # fmt: skip
        if masks[layer] is not None:
            y *= masks[layer]
        x = y
    return y, h_n, c_n, tapes


def stack_backward(cells, tapes, masks, dy, dh_n, dc_n):
    """The gradients of `stack_forward`; consumes the tapes.

    Parameters
    ----------
    cells, tapes, masks
        As for and from `stack_forward`.
    dy, dh_n, dc_n : ndarray or None
        Gradients of the shapes of y, h_n and c_n; None: zeros.

    Returns
    -------
    dx : ndarray (T, B, I)
    dh0, dc0 : ndarray (L*D, B, H|P), (L*D, B, H)
    grads : list of L*D dicts
        Gradients of the weights that are not None, by their names, cell by cell.

    Raises
    ------
    RuntimeError
        The tapes were consumed before.
    """
    L, D, inputs = len(cells), len(cells[0]), tapes[0][0].inputs
    B, H, P, dtype = inputs.B, inputs.H, inputs.P, inputs.x.dtype
    dh0, dc0 = np.empty((L * D, B, P), dtype), np.empty((L * D, B, H), dtype)
    grads = [None] * (L * D)
    for layer in reversed(range(L)):
        if masks[layer] is not None and dy is not None:
            dy = dy * masks[layer]  # y *= mask
        dx = None
        for d, (cell, weights) in enumerate(cells[layer]):
            k = layer * D + d
            grads[k] = {n: np.empty(w.shape, dtype) for n, w in weights.items() if w is not None}
            dx_d = cell.backward(
                tapes[layer][d], dy if dy is None or D == 1 else dy[:, :, d * P : (d + 1) * P],
                None if dh_n is None else dh_n[k], None if dc_n is None else dc_n[k],
                dh0[k], dc0[k], grads[k],
            )  # fmt: skip
            dx = dx_d if dx is None else np.add(dx, dx_d, out=dx)  # both read the same x
        dy = dx
    return dx, dh0, dc0, grads
