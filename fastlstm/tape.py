# SPDX-License-Identifier: MIT
"""What a forward pass leaves for the backward pass, and for whoever wants to look."""

from typing import NamedTuple

import numpy as np

__all__ = ["StepNorms", "Tape"]


class StepNorms(NamedTuple):
    """The Euclidean norms (T,) of dL/dh[t] and dL/dc[t], over all rows that have a step t."""

    h: np.ndarray
    c: np.ndarray


class Tape:
    """The record of one forward pass: one layer, one direction.

    `lstm_backward` consumes it: the activated gates are overwritten by their gradients in
    place. It refers to ``x`` and to the weights without a copy, so both must stay as they
    were until the backward pass has run.

    Attributes
    ----------
    h : ndarray (T+1, B, H|P)
        All hidden states. Slot 0 holds h0 and slot t+1 the state after step t; with
        ``reverse`` slot ``lengths[b]`` holds h0 and slot t the state after step t.
        Beyond a row's length: 0.
    c : ndarray (T+1, B, H)
        All cell states, as ``h``.
    gates : ndarray (T, B, 4, H)
        The activated gates i, f, g, o. Beyond a row's length: 0.
    dgates : ndarray (T, B, 4, H)
        After `lstm_backward`: the gradients of the gates' arguments, W x + W h + b.

    Raises
    ------
    RuntimeError
        The tape was consumed by `lstm_backward` (``gates``), or not yet (``dgates``).
    """

    def __init__(self, inputs, h, c, gates, h_raw=None, order=None, x=None, weights=None,
                 kept=None, resets=None, steps=None):  # fmt: skip
        self.inputs = inputs  # checks.Inputs: the arguments of the forward pass
        self._h = h  # (T+1, B, >= H|P) in the row order of the engine
        self._c = c  # (T+1, B, >= H)
        self._gates = gates  # (T, B, U, 4, L): U panels of L units; the plain layout is U = 1
        self.h_raw = h_raw  # (T, B, >= H) o * tanh(c) before the projection, or None
        self.order = order  # the engine's row k is row order[k] of the caller; None: the same order
        self.x = x  # (T, B, I) in the engine's rows, contiguous, zeros beyond a row's length
        self.weights = weights  # the engine's weights of the forward pass
        self.kept = kept  # what only variants need backward; each implementation has its own form
        self.resets = resets  # the engine's: where rows were reset, and their cells before
        self.steps = steps  # `sequences.Steps` where the engine left out those of a mask
        self._consumed = False
        self._name = "lstm_backward"  # what consumes it

    @property
    def h(self):
        """All hidden states (T+1, B, H|P)."""
        return self._slots(self._h[:, :, : self.inputs.P], self.inputs.h0)

    @property
    def c(self):
        """All cell states (T+1, B, H)."""
        return self._slots(self._c[:, :, : self.inputs.H], self.inputs.c0)

    @property
    def masks(self):
        """The random masks that were drawn, by the fields of `Spec`."""
        return dict(self.inputs.masks)

    @property
    def gates(self):
        """The activated gates (T, B, 4, H), order i f g o."""
        if self._consumed:
            raise RuntimeError(
                f"the gates of this tape were overwritten by {self._name}; "
                f"look before it, or call {self._name}(..., keep=True)"
            )
        return self._by_gate()

    @property
    def dgates(self):
        """The gradients of the gates' arguments (T, B, 4, H), after `lstm_backward`."""
        if not self._consumed:
            raise RuntimeError(
                f"the gradients of the gates are there after {self._name}(..., keep=False)"
            )
        return self._by_gate()

    def state_before(self, t0, t1):
        """The state with which the loop comes to the steps t0 <= t < t1: copies."""
        q = self.inputs
        slot = t1 if q.reverse else t0
        states = []
        for a, size, initial in ((self._h, q.P, q.h0), (self._c, q.H, q.c0)):
            if self.steps is None:
                state = np.array(self._rows(a[slot : slot + 1, :, :size], initial)[0])
            else:
                state = np.array(self._slots(a[:, :, :size], initial)[slot])
            if q.reverse and q.lengths is not None:  # rows that begin later
                state[q.lengths < t1] = initial[q.lengths < t1]
            states.append(state)
        return tuple(states)

    def _by_gate(self):
        T, B, U, n, L = self._gates.shape
        gates = self._gates.transpose(0, 1, 3, 2, 4).reshape(T, B, n, U * L)
        gates = self._rows(gates[..., : self.inputs.H])
        return gates if self.steps is None else _read_only(self.steps.back(gates))

    @property
    def lengths(self):
        """How many steps the engine ran in each row; None: all."""
        return self.inputs.lengths if self.steps is None else self.steps.lengths

    def _slots(self, a, initial):
        """The states ``a`` between the caller's steps."""
        a = self._rows(a, initial)
        return a if self.steps is None else _read_only(self.steps.slots(a))

    def _rows(self, a, initial=None):
        """``a`` with axis 1 in the caller's order of rows; read-only, as backward needs it.

        A row that the engine left out has length 0: zeros, but for its ``initial`` state.
        """
        if self.order is None:
            a = a[:]
        else:
            engine, a = a, np.zeros((len(a), self.inputs.B, *a.shape[2:]), a.dtype)
            a[:, self.order] = engine
            if initial is not None:
                empty = self.lengths == 0
                a[0, empty] = initial[empty]
        a.flags.writeable = False
        return a

    def consume(self, keep):
        """The gates for the backward pass to overwrite: a copy if ``keep``, else for good."""
        if self._consumed:
            raise RuntimeError(
                f"{self._name} has consumed this tape already; run the forward pass again, "
                f"or call {self._name}(..., keep=True) the first time"
            )
        self._consumed = not keep
        return self._gates.copy() if keep else self._gates


def _read_only(a):
    a.flags.writeable = False
    return a
