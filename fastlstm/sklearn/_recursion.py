# SPDX-License-Identifier: MIT
"""Forecasts that read their own forecasts, and simulated paths, of which intervals are made.

An interval for one step says nothing about the sum of the errors of several. So futures are made
up: each forecast of one step gets an error that was made in the past, drawn at random, and is read
as if it were true by the next. The interval holds the middle of many such paths: "bootstrapped
residuals", Hyndman & Athanasopoulos, Forecasting: Principles and Practice (3rd ed. 2021), section
5.5; with a transform the errors are those of the transformed values, section 5.6.
"""

import numpy as np

__all__ = ["PATHS", "Recursion"]

PATHS = 1000  # a tail of 2.5 % is then known to 0.5 % (its standard error)


class Recursion:
    """A network for one step, walking on.

    Values are those of `Windows.enter` throughout.

    Parameters
    ----------
    windows : Windows
        With ``ahead`` 1.
    regressor : LSTMRegressor
        Fitted on its training data.
    """

    def __init__(self, windows, regressor):
        self.windows, self.regressor = windows, regressor

    def step(self, rows, exog):
        """The value (m,) after each of the rows (m, W); exog is (m, W + 1, k) or None."""
        scaled = self.regressor.predict(self.windows.inputs(rows, exog)).reshape(-1, 1)
        return self.windows.scaling.values(rows[:, -1:], scaled)[:, 0]

    def walk(self, rows, exog, h, noise=None):
        """The h values (m, h) after each of the rows, made of one another.

        Parameters
        ----------
        rows : ndarray (m, W)
        exog : ndarray (m, W + h or more, k), or None
        h : int
        noise : ndarray (h, m), optional
            Added to each value before it is read.
        """
        W, path = self.windows.window, np.empty((len(rows), h))
        for k in range(h):
            known = None if exog is None else exog[:, k : k + W + 1]
            path[:, k] = self.step(rows, known) + (0 if noise is None else noise[k])
            rows = np.concatenate((rows[:, 1:], path[:, k : k + 1]), axis=1)
        return path

    def errors(self, y, exog, n):
        """What the last n windows of a series y (as `fit` had it) lack to the values after them."""
        x, _ = self.windows.training(y, exog)
        values = self.windows.enter(y)
        last = values[self.windows.window - 1 : -1, None]
        scaled = self.regressor.predict(x[-n:]).reshape(-1, 1)
        return values[-n:] - self.windows.scaling.values(last[-n:], scaled)[:, 0]

    def quantiles(self, rows, exog, h, levels, errors, seed):
        """These quantiles (m, h, len(levels)) of the paths after each of the rows.

        The same errors are drawn for each row, and for a shorter path the first of them: what is
        forecast at an origin does not depend on what else is asked for.
        """
        noise = np.random.default_rng(seed).choice(errors, size=(h, PATHS))
        found = np.empty((len(rows), h, len(levels)))
        for k, row in enumerate(rows):
            many = np.broadcast_to(row, (PATHS, len(row)))
            known = None if exog is None else np.broadcast_to(exog[k], (PATHS, *exog[k].shape))
            found[k] = np.quantile(self.walk(many, known, h, noise), levels, axis=0).T
        return found
