# SPDX-License-Identifier: MIT
"""Steps that a mask leaves out: the state is carried over them, and y says again what h was.

The steps that count are moved to the front of each row, the loops run on them with lengths, and
what comes out is moved back.
"""

import numpy as np

__all__ = ["Steps", "resets_that_count"]


def resets_that_count(reset, on, reverse):
    """Resets at steps that do not count, moved to the next that does; and where y is 0 until then.

    Parameters
    ----------
    reset, on : ndarray (T, B) of bool
        Where the state is set to zeros before a step; which steps count.
    reverse : bool

    Returns
    -------
    moved, zeroed : ndarray (T, B) of bool
    at_end : ndarray (B,) of bool
        Whether the row ends with zeros: no step counts after its last reset.

    Examples
    --------
    >>> reset, on = np.array([[True], [False], [False]]), np.array([[False], [False], [True]])
    >>> [a.T[0].tolist() for a in resets_that_count(reset, on, False)[:2]]
    [[False, False, True], [True, True, False]]
    """
    moved, zeroed = np.zeros_like(reset), np.zeros_like(reset)
    waiting = np.zeros(reset.shape[1], bool)
    for t in reversed(range(len(reset))) if reverse else range(len(reset)):
        waiting |= reset[t]
        moved[t], zeroed[t] = waiting & on[t], waiting & ~on[t]
        waiting &= ~on[t]
    return moved, zeroed, waiting


class Steps:
    """Which steps of each row count, and where they lie among those that do.

    Parameters
    ----------
    mask : ndarray (T, B) of bool
        False: the row stands still at this step.
    lengths : ndarray (B,) of intp, or None
        Beyond them no step counts, and y is 0.
    reverse : bool
    whole : bool
        Leave the room of all T steps in front.

    Attributes
    ----------
    K : int
        The largest number of steps that count in a row; T where it is ``whole``.
    counts : ndarray (B,) of intp
        How many count in each row.
    lengths : ndarray (B,) of intp, or None
        ``counts``; None: K in all rows.

    Examples
    --------
    >>> steps = Steps(np.array([[True, False], [False, False], [True, True]]), None, False)
    >>> steps.K, steps.lengths
    (2, array([2, 1]))
    >>> steps.front(np.array([[1, 2], [3, 4], [5, 6]]))
    array([[1, 6],
           [5, 0]])
    """

    def __init__(self, mask, lengths, reverse, whole=False):
        T, B = mask.shape
        n = np.full(B, T) if lengths is None else lengths
        inside = np.arange(T)[:, None] < n
        on = mask & inside
        # (T+1, B): how many steps that count lie before each slot
        self._before = np.zeros((T + 1, B), np.intp)
        np.cumsum(on, axis=0, out=self._before[1:])
        self.counts = counts = self._before[-1]
        self.K = T if whole else int(counts.max(initial=0))
        self.lengths = None if (counts == self.K).all() else counts
        self._shape, self._slots = (T, B), np.arange(T + 1)[:, None] <= n
        self.zeroed = self.at_end = None  # with resets: where y, and the final state, are zeros
        self._on = t, b = np.nonzero(on)
        self._front = self._before[t, b], b
        # the step that counts whose h is y[t], or none: then it is h0
        last = self._before[:-1] if reverse else self._before[1:] - 1
        initial = inside & (last == counts if reverse else last < 0)
        self._initial = np.nonzero(initial)
        self._says = t, b = np.nonzero(inside & ~initial)
        self._said = last[t, b], b

    def place_resets(self, reset, reverse):
        """``reset`` (T, B) for the steps that count, (K, B); notes where its rows rest at zeros."""
        T, B = self._shape
        on = np.zeros((T, B), bool)
        on[self._on] = True
        inside = self._slots[1:]
        moved, zeroed, self.at_end = resets_that_count(reset & inside, on, reverse)
        self.zeroed = zeroed & inside
        return self.front(moved)

    def front(self, a):
        """``a`` (T, B, ...) -> (K, B, ...): the steps that count first, then zeros."""
        front = np.zeros((self.K, *a.shape[1:]), a.dtype)
        front[self._front] = a[self._on]
        return front

    def back(self, a):
        """``a`` (K, B, ...) -> (T, B, ...): zeros in the steps that do not count."""
        back = np.zeros((*self._shape, *a.shape[2:]), a.dtype)
        back[self._on] = a[self._front]
        return back

    def spread(self, h, h0=None, y=None):
        """y (T, B, .), or a new one, from the h of the steps that count; h0 None: zeros."""
        y = np.empty((*self._shape, *h.shape[2:]), h.dtype) if y is None else y
        y[...] = 0
        y[self._says] = h[self._said]
        if h0 is not None:
            y[self._initial] = h0[self._initial[1]]
        if self.zeroed is not None:
            y[self.zeroed] = 0
        return y

    def collect(self, dy):
        """The gradients of h and of h0 from that of the y of `spread`."""
        if self.zeroed is not None:
            dy = np.where(self.zeroed[:, :, None], dy.dtype.type(0), dy)
        dh = np.zeros((self.K, *dy.shape[1:]), dy.dtype)
        np.add.at(dh, self._said, dy[self._says])
        dh0 = np.zeros(dy.shape[1:], dy.dtype)
        np.add.at(dh0, self._initial[1], dy[self._initial])
        return dh, dh0

    def slots(self, states):
        """The states (T+1, B, .) between all steps from those (K+1, B, .) that there are."""
        states = states[self._before, np.arange(self._shape[1])]
        states[~self._slots] = 0
        return states
