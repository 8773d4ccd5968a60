# SPDX-License-Identifier: MIT
"""A series, and what is known beside it, as the network reads it.

    values, log where log-returns are asked for -> scaled (series.py) -> windows of W values

With exogenous variables the sequence goes on over the steps to come, whose exogenous values are
known: channels are the value (0 in the steps to come), 1 where it is known (0 there), and the
exogenous variables, standardised. Every scale is that of the values the object was made with.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ..series import Change, MinMax
from ._network import check_choice

__all__ = ["TRANSFORMS", "Windows"]

TRANSFORMS = (None, "difference", "log_return")


class Windows:
    """The scales of a series, and its windows.

    Parameters
    ----------
    y : ndarray (n,), float64
        The values that are trained on: all scales are theirs.
    exog : ndarray (n, k), float64, or None
    window : int
        W values are read.
    ahead : int
        So many values are predicted at once.
    transform : {None, "difference", "log_return"}

    Raises
    ------
    ValueError
        The transform is not known; it is "log_return" and y is not positive.
    """

    def __init__(self, y, exog, window, ahead, transform):
        check_choice("transform", transform, TRANSFORMS)
        self.window, self.ahead, self.transform = window, ahead, transform
        values = self.enter(y)
        self.scaling = (MinMax if transform is None else Change)(values)
        self.exog_mean = self.exog_scale = None
        if exog is not None:
            self.exog_mean, scale = exog.mean(axis=0), exog.std(axis=0)
            self.exog_scale = np.where(scale > 0, scale, 1.0)

    def enter(self, y):
        """The values that are differenced or scaled: y itself, or its logarithm."""
        if self.transform != "log_return":
            return y
        if not (y > 0).all():
            k = int(np.argmin(y > 0))
            raise ValueError(f"transform='log_return' needs positive values, got y[{k}] = {y[k]}")
        return np.log(y)

    def leave(self, values):
        """The inverse of `enter`."""
        return np.exp(values) if self.transform == "log_return" else values

    def training(self, y, exog):
        """x (n, S, C) and targets (n, ahead), float32, of all windows whose targets are in y."""
        values, W = self.enter(y), self.window
        pieces = sliding_window_view(values[W - 1 :], self.ahead + 1)
        x = self.scaling.inputs(values, W)[: len(pieces)]  # a view
        if exog is not None:
            x = self._join(x, self.exog_windows(exog))
        return x, self.scaling.targets(pieces[:, :1], pieces[:, 1:])

    def exog_windows(self, exog):
        """The rows of W + ahead steps that begin at each step (n, W + ahead, k): a view."""
        return sliding_window_view(exog, self.window + self.ahead, axis=0).swapaxes(1, 2)

    def inputs(self, rows, exog):
        """x (m, S, C) for windows ``rows`` (m, W) of `enter`, with exog (m, W + ahead, k)."""
        # The windows of all rows in a line; those that lie within one row are what is wanted.
        x = self.scaling.inputs(rows.ravel(), self.window)[:: self.window]
        return x if exog is None else self._join(x, exog)

    def _join(self, x, exog):
        """Values (m, S, 1) and exog (m, W + ahead, k) as one array (m, S + ahead, 2 + k)."""
        m, S, _ = x.shape
        joined = np.zeros((m, S + self.ahead, 2 + exog.shape[2]), np.float32)
        joined[:, :S, :1] = x
        joined[:, :S, 1] = 1
        with np.errstate(over="ignore"):  # an infinity is refused where the network reads it
            joined[:, :, 2:] = (exog[:, -S - self.ahead :] - self.exog_mean) / self.exog_scale
        return joined
