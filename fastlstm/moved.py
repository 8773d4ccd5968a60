# SPDX-License-Identifier: MIT
"""The arrays of a pass and of its tangents, as the loops of `_second_order` read them."""

import numpy as np

from . import _kernels, _rows

__all__ = ["Moved"]


class Moved:
    """A pass and its tangents, array by array, in the order of the BLAS step.

    ``order`` and ``active`` as from `_rows.by_length`; ``primal`` and ``tangent`` are dicts of
    contiguous arrays by the names of fl_lstm.
    """

    def __init__(self, tape, v):
        self.inputs = q = tape.inputs
        self.order, self.active = _rows.by_length(q.lengths, q.T, q.B)
        self.primal = {name: np.ascontiguousarray(w) for name, w in q.weights.items()}
        self.primal |= dict(
            x=self.steps(q.x),
            h=self.rows(tape.h),
            c=self.rows(tape.c),
            gates=self.rows(tape.gates),
            m=None,
        )
        self.s_c = _kernels.elementwise("tanh", self.primal["c"])
        if q.w_proj is not None:
            after = slice(0, q.T) if q.reverse else slice(1, q.T + 1)
            self.primal["m"] = self.primal["gates"][:, :, 3] * self.s_c[after]
        self.tangent = {name: np.ascontiguousarray(w) for name, w in v.weights.items()}
        self.tangent |= {
            name: None if a is None else np.zeros_like(a)
            for name, a in self.primal.items()
            if name in ("h", "c", "gates", "m")
        }
        self.tangent["x"] = None if v.x is None else self.steps(v.x)
        self.start(v.h0, v.c0)

    def rows(self, a):
        """``a`` (T, B, ...) in the engine's rows."""
        return np.ascontiguousarray(a if self.order is None else a.take(self.order, axis=1))

    def steps(self, a):
        """``a`` (T, B, .) in the engine's rows, zeros beyond a row's length."""
        if self.order is None:
            return np.ascontiguousarray(a)
        return _rows.sorted_input(a, self.inputs.lengths, self.order)

    def slots(self, last):
        """Which slot holds the initial, or the last, state of each of the engine's rows."""
        n = self.inputs.T if self.order is None else self.inputs.lengths[self.order]
        at = n if last != self.inputs.reverse else 0
        return np.broadcast_to(at, self.primal["c"].shape[1])

    def start(self, *initial):
        """Put the tangents of the initial state, or None, into their slots."""
        rows = np.arange(self.primal["c"].shape[1])
        for name, a in zip("hc", initial, strict=True):
            if a is not None:
                self.tangent[name][self.slots(False), rows] = (
                    a if self.order is None else a[self.order]
                )

    def end(self, name, initial):
        """The tangent of the final state; ``initial`` is that of the initial one, or None."""
        rows = np.arange(self.primal["c"].shape[1])
        last = self.tangent[name][self.slots(True), rows]
        if self.order is None:
            return last
        full = np.zeros((self.inputs.B, last.shape[1]), last.dtype)
        if initial is not None:
            full[...] = initial
        full[self.order] = last
        return full

    def full(self, a):
        """``a`` (T, B', ...) of the engine's rows as (T, B, ...), zeros beyond a row's length."""
        if self.order is None:
            return np.ascontiguousarray(a)
        full = np.zeros((len(a), self.inputs.B, *a.shape[2:]), a.dtype)
        full[:, self.order] = a
        full[np.arange(len(a))[:, None] >= self.inputs.lengths] = 0
        return full
