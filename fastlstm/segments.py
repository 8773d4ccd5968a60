# SPDX-License-Identifier: MIT
"""Time in pieces: back-propagation through long sequences in little memory, or cut short.

`Checkpointed` keeps the states between pieces of about sqrt(T) steps instead of a tape, and runs
each piece again when its gradients are wanted (Chen et al. 2016: one more forward pass, memory
O(sqrt(T))). Sums over time go on from piece to piece in the order of the whole loop, so that on the
SIMD steps the gradients have the same bits.

`truncated_backward` is truncated BPTT(k1, k2) (Williams & Peng 1990): every k1 steps the gradient
of what was said in these k1 steps goes k2 steps back, and no further.

Both count steps in the order in which the loop runs: a reversed one begins at the end.
"""

from math import isqrt

import numpy as np

from ._stack import by_cell, stack_backward, stack_forward
from .masks import cell_masks
from .tape import Tape

__all__ = [
    "CheckpointTape",
    "Checkpointed",
    "backward_in_pieces",
    "pieces_of",
    "truncated_backward",
]

_STEPWISE = ("zoneout_h", "zoneout_c")  # the random masks that have an axis of time


def pieces_of(T, every, reverse=False):
    """The pieces [t0, t1) of at most ``every`` steps, in the order in which a loop comes to them.

    Examples
    --------
    >>> pieces_of(7, 3), pieces_of(7, 3, reverse=True)
    ([(0, 3), (3, 6), (6, 7)], [(4, 7), (1, 4), (0, 1)])
    """
    pieces = [(s, min(s + every, T)) for s in range(0, T, every)]
    return [(T - s1, T - s0) for s0, s1 in pieces] if reverse else pieces


def lengths_in(lengths, t0, t1):
    """How many of the steps t0 <= t < t1 each row has; None: all."""
    if lengths is None:
        return None
    inside = np.clip(lengths - t0, 0, t1 - t0)
    return None if (inside == t1 - t0).all() else inside


def steps_in(steps, t0, t1):
    """What belongs to single steps of a forward pass (reset, masks), for a piece of it."""
    piece = {name: a[t0:t1] for name, a in steps.items() if name != "rng" and a is not None}
    if masks := steps.get("rng"):
        piece["rng"] = {k: m[t0:t1] if k in _STEPWISE else m for k, m in masks.items()}
    return piece


# -- checkpoints -------------------------------------------------------------------------------


class Checkpointed:
    """A cell (`backend.direction`) that keeps states at intervals instead of a tape.

    Parameters
    ----------
    cell : the cell
    every : int
        Steps between two states that are kept; 0: about sqrt(T).
    """

    def __init__(self, cell, every):
        self.cell, self.every = cell, every

    def forward(self, x, weights, start, y, end, lengths=None, reverse=False, save=False, **steps):
        """As the cell's; the tape is a `CheckpointTape`."""
        if not save or len(x) == 0:
            return self.cell.forward(x, weights, start, y, end, lengths, reverse, save, **steps)
        tape = CheckpointTape(self, x, weights, start, end, lengths, reverse, steps)
        to = y if tape.order is None else np.empty(y.shape, y.dtype)
        for k in range(len(tape.pieces)):
            tape.states.append(tape.run(k, to, False)[0])
        y[...] = tape.unsorted(to, 1)
        for e, last in zip(end, tape.states.pop(), strict=True):
            e[...] = tape.unsorted(last)
        return tape

    def backward(self, tape, dy, dend, dstart, dw, keep=False):
        """As the cell's; it may be done again."""
        if not isinstance(tape, CheckpointTape):
            return self.cell.backward(tape, dy, dend, dstart, dw, keep)
        dx = np.empty(tape.x.shape, tape.x.dtype)
        dy = None if dy is None else tape.sorted(dy, 1)
        dend = tuple(None if d is None else tape.sorted(d) for d in dend)
        t0, t1 = tape.pieces[0]
        y = np.empty((t1 - t0, *tape.states[0][0].shape), dx.dtype)
        for k, (t0, t1) in reversed(list(enumerate(tape.pieces))):
            _, inner = tape.run(k, y[: t1 - t0], True)
            dbefore = tuple(np.empty_like(s) for s in tape.states[0])
            dy_k = None if dy is None else dy[t0:t1]
            later = k + 1 < len(tape.pieces)
            dx[t0:t1] = self._add(inner, dy_k, dend, dbefore, dw, later)
            dend = dbefore
        for d, value in zip(dstart, dend, strict=True):
            d[...] = tape.unsorted(value)
        if tape.dropped is not None:
            dw["w_hh"] *= tape.dropped
        return tape.unsorted(dx, 1)

    def _add(self, tape, dy, dend, dstart, dw, later):
        """The cell's backward pass, its gradients added to those of later steps."""
        if not later or getattr(self.cell, "adds", False):
            further = {"add": True} if later else {}
            return self.cell.backward(tape, dy, dend, dstart, dw, **further)
        piece = {name: np.empty_like(d) for name, d in dw.items()}
        dx = self.cell.backward(tape, dy, dend, dstart, piece)
        for name, d in piece.items():
            dw[name] += d
        return dx


class CheckpointTape(Tape):
    """The states before each piece of a run, with all that it takes to run a piece again.

    It refers to ``x`` and to the weights; both must stay as they were until the backward pass.
    Rows of different length are kept longest first, as the engine has them: so a piece adds up
    rows in the order of the whole. It has no ``h``, ``c`` and ``gates`` to look at.
    """

    def __init__(self, cell, x, weights, start, end, lengths, reverse, steps):
        self.cell, self.weights, self.reverse = cell, weights, reverse
        self.inputs = Extent(x, lengths, reverse, dict(steps))
        self.order = None if lengths is None else np.argsort(-lengths, kind="stable")
        self.x, self.of_rows = self.sorted(x, 1), self.sorted(lengths)
        self.steps, self.dropped = self._steps(steps, end), None
        if "weight_drop" in self.steps.get("rng", ()):  # once for all pieces
            self.dropped = self.steps["rng"].pop("weight_drop")
            self.weights = {**weights, "w_hh": weights["w_hh"] * self.dropped}
        self.pieces = pieces_of(len(x), cell.every or isqrt(len(x) - 1) + 1, reverse)
        first = (np.zeros_like(e) if s is None else s for s, e in zip(start, end, strict=True))
        # contiguous, as the states after each piece are to be
        self.states = [tuple(np.array(self.sorted(s), order="C") for s in first)]

    h = c = gates = property(
        lambda self: self._refuse(),
        doc="Not there: RuntimeError. Run without ``checkpoint`` to look at steps.",
    )

    def _refuse(self):
        raise RuntimeError(
            "a checkpointed tape holds states at intervals only; run the forward pass without "
            "checkpoint to look at h, c or gates"
        )

    def _steps(self, steps, end):
        """The flags and masks of all steps in the order of the rows here."""
        given = {name: self.sorted(a, 1) for name, a in steps.items() if name != "rng"}
        rng = steps.get("rng")
        if rng is not None:
            T, B, _ = self.x.shape
            h, c = (e.shape[1] for e in end)
            masks = cell_masks(self.cell.cell.spec, rng, (T, B, c), h, self.x.dtype)
            axes = {"weight_drop": None, "recurrent_dropout": 0}
            given["rng"] = {
                k: m if k == "weight_drop" else self.sorted(m, axes.get(k, 1))
                for k, m in masks.items()
            }
        return given

    def sorted(self, a, axis=0):
        """``a`` with the rows longest first."""
        return a if self.order is None or a is None else a.take(self.order, axis)

    def unsorted(self, a, axis=0):
        """The inverse of `sorted`."""
        return a if self.order is None else a.take(np.argsort(self.order), axis)

    def run(self, k, y, save):
        """The state after piece k and its tape; y (T, B, .), or of the piece, is written."""
        t0, t1 = self.pieces[k]
        return self._run(t0, t1, self.states[k], y[t0:t1] if len(y) == len(self.x) else y, save)

    def _run(self, t0, t1, state, y, save):
        end = tuple(np.empty_like(s) for s in state)
        tape = self.cell.cell.forward(
            self.x[t0:t1], self.weights, state, y, end, lengths_in(self.of_rows, t0, t1),
            self.reverse, save, **steps_in(self.steps, t0, t1),
        )  # fmt: skip
        return end, tape

    def state_before(self, t0, t1):
        """The state with which the loop comes to the steps t0 <= t < t1."""
        begins = [piece[self.reverse] for piece in self.pieces]  # where the loop enters each
        at = t1 if self.reverse else t0
        k = max(k for k, b in enumerate(begins) if (b >= at if self.reverse else b <= at))
        state = self.states[k]
        if at != begins[k]:
            u0, u1 = sorted((at, begins[k]))
            y = np.empty((u1 - u0, *state[0].shape), self.x.dtype)
            state, _ = self._run(u0, u1, state, y, False)
        return tuple(self.unsorted(s) for s in state)


class Extent:
    """What a stack asks of the inputs of a tape: x (T, B, I), lengths, reverse, the steps."""

    def __init__(self, x, lengths, reverse, steps):
        self.x, self.lengths, self.reverse, self.steps = x, lengths, reverse, steps
        self.T, self.B, self.I = x.shape


# -- truncated ---------------------------------------------------------------------------------


class _Window:
    """A cell of a stack for a window of time: in its direction, with the masks that it drew."""

    def __init__(self, cell, reverse, masks):
        self.cell, self.reverse = cell, reverse
        self.drawn = {"rng": masks} if masks else {}

    def forward(self, x, weights, start, y, end, lengths, reverse, save, **steps):
        """As `_engine.Direction.forward`, but that ``reverse`` is the cell's own."""
        return self.cell.forward(
            x, weights, start, y, end, lengths, self.reverse, save, **steps, **self.drawn
        )

    def backward(self, *args):
        """As `_engine.Direction.backward`."""
        return self.cell.backward(*args)


def truncated_backward(cells, tapes, widths, masks, dy, dends, grads, k1, k2):
    """The gradients of `stack_forward` by truncated BPTT(k1, k2); the tapes stay as they are.

    Parameters
    ----------
    cells, tapes, widths, masks, dy, dends, grads
        As for `stack_backward`, in one direction. Each window is run again from the states that
        the tapes have.
    k1, k2 : int
        1 <= k1 <= k2.

    Returns
    -------
    dx : ndarray (T, B, I)
    dstarts : list of tuples of ndarray
        The gradients with respect to the initial states, cell by cell.
    """
    inputs = tapes[0][0].inputs
    x, lengths, reverse, (T, B, _) = inputs.x, inputs.lengths, inputs.reverse, inputs.x.shape
    n = np.full(B, T) if lengths is None else lengths
    dx = np.zeros(x.shape, x.dtype)
    totals = [{name: np.zeros_like(d) for name, d in dw.items()} for dw in grads]
    dstarts = [
        tuple(np.zeros_like(s) for s in tape.state_before(0, T)) for tape in _flat(tapes)
    ]  # fmt: skip
    for b0, b1 in pieces_of(T, k1, reverse):
        t0, t1 = (b0, min(T, b0 + k2)) if reverse else (max(0, b1 - k2), b1)
        begins = (n > 0) & (n <= t1) if reverse else (n > 0) & (t0 == 0)
        ends = (n > 0) & (b0 == 0) if reverse else (n > b0) & (n <= b1)
        dy_w = None
        if dy is not None:  # what was said outside the k1 steps has its turn in another window
            dy_w = np.zeros((t1 - t0, *dy.shape[1:]), dy.dtype)
            dy_w[b0 - t0 : b1 - t0] = dy[b0:b1]
        dends_w = [_of_rows(dend, ends) for dend in dends]
        window = [[_window(cell, tape, t0, t1) for cell, tape in zip(*layer, strict=True)]
                  for layer in zip(cells, tapes, strict=True)]  # fmt: skip
        starts = [tape.state_before(t0, t1) for tape in _flat(tapes)]
        masks_w = [None if m is None else m[t0:t1] for m in masks]
        flags = steps_in({k: a for k, a in _steps_of(inputs).items() if k != "rng"}, t0, t1)
        _, _, inner = stack_forward(window, x[t0:t1], widths, starts, lengths_in(lengths, t0, t1),
                                    masks_w, True, None, flags)  # fmt: skip
        dx_w, first = stack_backward(window, inner, widths, masks_w, dy_w, dends_w, grads)
        dx[t0:t1] += dx_w
        for total, dw in zip(totals, grads, strict=True):
            for name, d in dw.items():
                total[name] += d
        for sums, cell in zip(dstarts, by_cell(first), strict=True):
            for total, d in zip(sums, _of_rows(cell, begins), strict=True):
                total += d
    for total, dw in zip(totals, grads, strict=True):
        for name, d in dw.items():
            d[...] = total[name]
    for sums, dend in zip(dstarts, dends, strict=True):  # rows without a step
        for total, d in zip(sums, _of_rows(dend, n == 0), strict=True):
            total += 0 if d is None else d
    return dx, dstarts


def _flat(tapes):
    return [tape for layer in tapes for tape in layer]


def _of_rows(states, rows):
    """States or their gradients (B, .), zeros in the other rows."""
    return tuple(None if s is None else np.where(rows[:, None], s, s.dtype.type(0)) for s in states)


def _steps_of(inputs):
    """The flags and the random masks of a forward pass."""
    if isinstance(inputs, Extent):
        return inputs.steps
    return {"mask": inputs.mask, "reset": inputs.reset, "rng": inputs.masks}


def _window(cell, tape, t0, t1):
    """A pair (cell, weights) of a stack for the steps t0 <= t < t1."""
    direction, weights = cell
    if isinstance(direction, Checkpointed):
        direction = direction.cell
    masks = steps_in({"rng": _steps_of(tape.inputs).get("rng")}, t0, t1).get("rng")
    return _Window(direction, tape.inputs.reverse, masks), weights


def backward_in_pieces(tape, cell, dy, dend, dstart, dw, step_norms, k1, k2):
    """`lstm_backward` for a checkpointed tape, or with k1 and k2; dstart and dw are written."""
    if step_norms:
        raise ValueError("step_norms needs a whole tape, got one with checkpoint")
    if k1 is None:
        dx = tape.cell.backward(tape, dy, dend, dstart, dw)
    else:
        weights = tape.inputs.weights
        widths = [tuple(d.shape[1] for d in dstart)]
        dx, (first,) = truncated_backward(
            [[(cell, weights)]], [[tape]], widths, [None], dy, [dend], [dw], k1, k2
        )
        for d, value in zip(dstart, first, strict=True):
            d[...] = value
    return dx, dstart, dw
