# SPDX-License-Identifier: MIT
"""Steps that a mask leaves out: the state is carried over them, and y says again what h was.

The steps that count are moved to the front of each row, the loops run on them with lengths, and
what comes out is moved back.
"""

import numpy as np

__all__ = ["Steps"]


class Steps:
    """Which steps of each row count, and where they lie among those that do.

    Parameters
    ----------
    mask : ndarray (T, B) of bool
        False: the row stands still at this step.
    lengths : ndarray (B,) of intp, or None
        Beyond them no step counts, and y is 0.
    reverse : bool

    Attributes
    ----------
    K : int
        The largest number of steps that count in a row.
    lengths : ndarray (B,) of intp, or None
        How many count in each row; None: K in all.

    Examples
    --------
    >>> steps = Steps(np.array([[True, False], [False, False], [True, True]]), None, False)
    >>> steps.K, steps.lengths
    (2, array([2, 1]))
    >>> steps.front(np.array([[1, 2], [3, 4], [5, 6]]))
    array([[1, 6],
           [5, 0]])
    """

    def __init__(self, mask, lengths, reverse):
        T, B = mask.shape
        n = np.full(B, T) if lengths is None else lengths
        inside = np.arange(T)[:, None] < n
        on = mask & inside
        # (T+1, B): how many steps that count lie before each slot
        self._before = np.zeros((T + 1, B), np.intp)
        np.cumsum(on, axis=0, out=self._before[1:])
        counts = self._before[-1]
        self.K = int(counts.max(initial=0))
        self.lengths = None if (counts == self.K).all() else counts
        self._shape, self._slots = (T, B), np.arange(T + 1)[:, None] <= n
        self._on = t, b = np.nonzero(on)
        self._front = self._before[t, b], b
        # the step that counts whose h is y[t], or none: then it is h0
        last = self._before[:-1] if reverse else self._before[1:] - 1
        initial = inside & (last == counts if reverse else last < 0)
        self._initial = np.nonzero(initial)
        self._says = t, b = np.nonzero(inside & ~initial)
        self._said = last[t, b], b

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

    def spread(self, h, h0, y):
        """Write y (T, B, .) from the h of the steps that count; h0 None: zeros."""
        y[...] = 0
        y[self._says] = h[self._said]
        if h0 is not None:
            y[self._initial] = h0[self._initial[1]]

    def collect(self, dy):
        """The gradients of h and of h0 from that of the y of `spread`."""
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
