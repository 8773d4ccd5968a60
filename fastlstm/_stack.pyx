# SPDX-License-Identifier: MIT
"""Layers on layers, directions side by side: the loop around the cells, both ways.

    x -> [layer 0 forwards | backwards] * mask -> [layer 1 forwards | backwards] -> y

A cell is one layer in one direction. What it starts from and ends with is a tuple of states, of
which the first is h; the states of all cells lie side by side, cell ``layer * D + direction`` after
the other, as PyTorch has them. All arrays were checked before.

In Cython only because a call of one step would feel the interpreter.
"""

from numpy cimport ndarray

import numpy as np

from ._beside import Beside

from ._memory cimport aligned, empty

__all__ = ["by_argument", "by_cell", "new_states", "stack_backward", "stack_forward"]


def new_states(list widths, Py_ssize_t D, Py_ssize_t B, dtype):
    """Uninitialised states of all cells, contiguous cell by cell, each from a cache line on.

    Two threads that add up parts of dh0 would else wait for each other's line.

    Parameters
    ----------
    widths : list of L tuples of S int
        The size of each state, layer by layer.
    D, B : int
        Directions, rows.
    dtype : dtype

    Returns
    -------
    tuple of S ndarrays (L*D, B, size); where the layers differ, of S tuples of L arrays
    (D, B, size)

    Examples
    --------
    >>> h, c = new_states([(4, 9), (4, 9)], 1, 3, np.dtype("float32"))
    >>> h.shape, c.shape
    ((2, 3, 4), (2, 3, 9))
    >>> (h,) = new_states([(4,), (5,)], 1, 3, np.dtype("float32"))
    >>> [a.shape for a in h]
    [(1, 3, 4), (1, 3, 5)]
    """
    cdef Py_ssize_t rows = len(widths) * D
    first = widths[0]
    for sizes in widths:
        if sizes != first:
            return tuple([tuple([aligned((D, B, n), dtype) for n in state])
                          for state in zip(*widths)])
    return tuple([aligned((rows, B, n), dtype) for n in first])


def by_argument(parameters, list names):
    """The arrays that each cell has, by the names of its function.

    Parameters
    ----------
    parameters : dict of str to ndarray
    names : list of lists of pairs (argument, name)
        Of each cell: how its function calls an array, and how ``parameters`` does.

    Examples
    --------
    >>> by_argument({"weight_ih_l0": 1, "weight_ih_l1": 2}, [[("w_ih", "weight_ih_l1")]])
    [{'w_ih': 2}]
    """
    cdef list cell, cells = []
    for cell in names:
        arrays = {}
        for argument, name in cell:
            arrays[argument] = parameters[name]
        cells.append(arrays)
    return cells


def by_cell(states):
    """States as `new_states` has them -> for each cell the tuple of its S arrays; views.

    A list is taken as it is, one entry for each cell.

    Examples
    --------
    >>> h = np.array([[[1.0]], [[2.0]]]), np.array([[[3.0, 4.0]], [[5.0, 6.0]]])
    >>> [cell[0].tolist() for cell in by_cell([h])]
    [[[1.0]], [[2.0]], [[3.0, 4.0]], [[5.0, 6.0]]]
    """
    cdef Py_ssize_t k
    flat = [[a for part in s for a in part] if type(s) is tuple else s for s in states]
    return [tuple([s[k] for s in flat]) for k in range(len(flat[0]))]


def stack_forward(
    list cells, ndarray x, list widths, list starts, lengths, list masks, bint save, out=None,
    steps=None,
):
    """The outputs, the final states and the tapes of a stack of recurrent layers.

    Parameters
    ----------
    cells : list of L lists of D pairs (direction, dict)
        What runs a cell (`backend.direction`), and its weights by the names of its function,
        as `lstm_forward`. D = 2: the second runs in reverse.
    x : ndarray (T, B, I), float32 or float64
    widths : list of L tuples of S int
        The size of each state, layer by layer; that of h is first.
    starts : list of L*D tuples of S arrays (B, H|P), (B, H), ... or None: zeros
        The initial states, cell by cell.
    lengths : ndarray (B,) of intp, or None
    masks : list of L arrays (T, B, D*(H|P)) or None
        What multiplies the output of each layer: dropout.
    save : bool
        Whether a backward pass follows.
    out : ndarray (T, B, D*(H|P)), optional
        Write y here.
    steps : dict, optional
        ``mask`` and ``reset`` (T, B) of bool for the cells; ``rng``, which draws their masks.

    Returns
    -------
    y : ndarray (T, B, D*(H|P))
    finals : S final states as of `new_states`
    tapes : list of L lists of D tapes
        None each without ``save``.
    """
    cdef Py_ssize_t T = x.shape[0], B = x.shape[1], L = len(cells), D = len(cells[0])
    cdef Py_ssize_t layer, d, P, k = 0
    dtype = x.dtype
    finals = new_states(widths, D, B, dtype)
    ends, tapes = by_cell(finals), []
    for layer in range(L):
        P = widths[layer][0]
        y = out if out is not None and layer == L - 1 else empty((T, B, D * P), dtype)
        if may_pair(cells[layer]):
            of_layer = forward_pair(cells[layer], x, starts, k, y, P, ends, lengths, save, steps)
        else:
            of_layer = []
            for d in range(D):
                cell, weights = cells[layer][d]
                y_d = y if D == 1 else y[:, :, d * P:(d + 1) * P]
                given = x, weights, starts[k + d], y_d, ends[k + d], lengths, d == 1, save
                of_layer.append(cell.forward(*given, **steps) if steps else cell.forward(*given))
        k += D
        tapes.append(of_layer)
        if masks[layer] is not None:
            y *= masks[layer]
        x = y
    return y, finals, tapes


cdef bint may_pair(list cells):
    """Whether these are two cells that can run side by side."""
    if len(cells) != 2:
        return False
    return getattr(cells[0][0], "pairs", False) and getattr(cells[1][0], "pairs", False)


cdef list forward_pair(
    list cells, x, list starts, Py_ssize_t k, y, Py_ssize_t P, list ends, lengths, bint save, steps
):
    """The tapes of both directions of a layer, cells k and k + 1; writes y and their ends."""
    (one, w_one), (two, w_two) = cells
    named = steps or {}
    given = x, w_two, starts[k + 1], y[:, :, P:], ends[k + 1], lengths, True, save
    beside = Beside(two.forward, given, named)
    tape = one.forward(x, w_one, starts[k], y[:, :, :P], ends[k], lengths, False, save,
                       beside=beside, **named)
    return [tape, beside.get()]


cdef backward_pair(
    list cells, list tapes, Py_ssize_t k, dy, Py_ssize_t P, list dends, list dstarts, list grads
):
    """dx of both, which read the same x; writes dstarts and grads."""
    (one, _), (two, _) = cells
    dy_one, dy_two = (None, None) if dy is None else (dy[:, :, :P], dy[:, :, P:])
    given = tapes[1], dy_two, dends[k + 1], dstarts[k + 1], grads[k + 1]
    beside = Beside(two.backward, given, {})
    dx = one.backward(tapes[0], dy_one, dends[k], dstarts[k], grads[k], beside=beside)
    return np.add(dx, beside.get(), out=dx)


def stack_backward(
    list cells, list tapes, list widths, list masks, dy, list dends, list grads,
):
    """The gradients of `stack_forward`; consumes the tapes.

    Parameters
    ----------
    cells, tapes, widths, masks
        As for and from `stack_forward`.
    dy : ndarray (T, B, D*(H|P)) or None: zeros
    dends : list of L*D tuples of S arrays or None: zeros
        Gradients with respect to the final states, cell by cell.
    grads : list of L*D dicts
        The gradients of the weights are written here: an array for each that is not None.

    Returns
    -------
    dx : ndarray (T, B, I)
    dstarts : S gradients with respect to the initial states as of `new_states`

    Raises
    ------
    RuntimeError
        The tapes were consumed before.
    """
    cdef Py_ssize_t L = len(cells), D = len(cells[0]), layer, d, P, k
    cdef ndarray x = tapes[0][0].inputs.x
    initial = new_states(widths, D, x.shape[1], x.dtype)
    dstarts = by_cell(initial)
    for layer in reversed(range(L)):
        P = widths[layer][0]
        if masks[layer] is not None and dy is not None:
            dy = dy * masks[layer]  # y *= mask
        k = layer * D
        if may_pair(cells[layer]):
            dx = backward_pair(cells[layer], tapes[layer], k, dy, P, dends, dstarts, grads)
        else:
            dx = None
            for d in range(D):
                cell, _ = cells[layer][d]
                dy_d = dy if dy is None or D == 1 else dy[:, :, d * P:(d + 1) * P]
                dx_d = cell.backward(tapes[layer][d], dy_d, dends[k + d], dstarts[k + d],
                                     grads[k + d])
                dx = dx_d if dx is None else np.add(dx, dx_d, out=dx)  # both read the same x
        dy = dx
    return dy, initial
