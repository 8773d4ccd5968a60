# SPDX-License-Identifier: MIT
"""Walking forward through a series, beside forecasts that need no network.

------------- past -------------|-- fold 1 --|                fit, forecast from every step
-------------------- past --------------------|-- fold 2 --|  fit again, ...
"""

from dataclasses import dataclass

import numpy as np

from .csvfile import InputError
from .forecast import coverage, errors, run
from .series import LEAST_WINDOWS, Split

__all__ = ["SEASONAL_NAME", "Backtest", "backtest", "fold_size", "seasonal_naive"]

SEASONAL_NAME = "seasonal naive"


@dataclass
class Backtest:
    """What a backtest found. N forecasts of H = horizon values each.

    Attributes
    ----------
    origins : ndarray (N,) of int
        Index of the last value that each forecast could see.
    fold : ndarray (N,) of int
        Of which fold it is, counted from 0.
    truth : ndarray (N, H)
    predictions : dict of str to ndarray (N, H)
        By "persistence", "seasonal naive" (where there is a season), "linear autoregression" and
        "LSTM".
    interval : ndarray (N, H, 2), or None
        The two ends of the LSTM's interval.

    Examples
    --------
    >>> origins, fold, truth = np.arange(4, 6), np.zeros(2, int), np.ones((2, 1))
    >>> Backtest(origins, fold, truth, {"LSTM": 3 * truth}, None).errors
    {'LSTM': (2.0, 2.0)}
    """

    origins: np.ndarray
    fold: np.ndarray
    truth: np.ndarray
    predictions: dict
    interval: np.ndarray | None

    @property
    def errors(self):
        """Name -> (root mean squared error, mean absolute error) over all folds."""
        return {name: errors(self.truth, p) for name, p in self.predictions.items()}

    @property
    def fold_errors(self):
        """As `errors`, one dict for each fold."""
        return [
            {name: errors(self.truth[rows], p[rows]) for name, p in self.predictions.items()}
            for rows in (self.fold == k for k in range(self.fold[-1] + 1))
        ]

    @property
    def coverage(self):
        """The part of the true values that lies in the interval; None without an interval."""
        return coverage(self.truth, self.interval)

    def __str__(self):
        """A table: a row for each forecast, its errors in all folds, then its RMSE in each."""
        folds = self.fold_errors
        head = ["RMSE", "MAE", *(f"fold {k + 1}" for k in range(len(folds)))]
        width = max(map(len, self.predictions))
        lines = [" " * width + "".join(f"{title:>11}" for title in head)]
        for name, pair in self.errors.items():
            numbers = [*pair, *(fold[name][0] for fold in folds)]
            lines.append(f"{name:{width}}" + "".join(f"{number:11.4g}" for number in numbers))
        return "\n".join(lines)


def seasonal_naive(y, season, origins, horizon):
    """The forecast that everything is as it was a season ago.

    Parameters
    ----------
    y : ndarray (n,)
    season : int
    origins : ndarray (N,) of int, at least season - 1
        Index of the last known value.
    horizon : int

    Returns
    -------
    ndarray (N, H)

    Examples
    --------
    >>> seasonal_naive(np.arange(10), season=3, origins=np.array([5]), horizon=4)
    array([[3, 4, 5, 3]])
    """
    steps = np.arange(horizon)
    return y[origins[:, None] + 1 + steps % season - season]


def fold_size(series, settings, folds, season=None):
    """How many values a fold of `backtest` has, or an InputError that says what is too much."""
    n, W, H = len(series.values), settings.window, settings.horizon
    size = n // (folds + 1)
    if size < H or n - folds * size - W - H + 1 < LEAST_WINDOWS:
        raise InputError(
            f"{series.name} has {n} rows: too few for {folds} folds, a window of {W} and a horizon "
            f"of {H}; take fewer folds"
        )
    first = n - folds * size
    if season is not None and season > first:
        raise InputError(f"season must be at most {first}, the first past, got {season}")
    return size


def backtest(series, settings, folds=5, season=None, progress=None):
    """Train anew for each fold on all values before it, and forecast from every step of it.

    Parameters
    ----------
    series : Series
    settings : forecast.Settings
        Without its ``test_fraction``: a fold is of ``n // (folds + 1)`` values.
    folds : int
    season : int, optional
        Period of the seasonal-naive baseline; None = leave it out.
    progress : bool, optional
        As for `forecast.run`.

    Returns
    -------
    Backtest
    report : forecast.Report
        That of the last fold: its network has seen the most.

    Raises
    ------
    InputError
        The series is too short for the folds, or the season too long.

    Examples
    --------
    >>> from fastlstm.csvfile import Series
    >>> from fastlstm.forecast import Settings
    >>> small = Settings(window=5, hidden=4, layers=1, epochs=1)
    >>> found, _ = backtest(Series("wave", np.sin(np.arange(90) / 3)), small, folds=2)
    >>> found.truth.shape
    (60, 1)
    """
    n, W, H = len(series.values), settings.window, settings.horizon
    size = fold_size(series, settings, folds, season)
    parts, report = [], None
    for k, start in enumerate(range(n - folds * size, n, size)):
        split = Split.at(start + size, W, H, start)
        report = run(series.until(start + size), settings, progress, split)
        origins = np.arange(start - 1, start + size - H)
        part = {"origins": origins, "fold": np.full(len(origins), k), "truth": report.truth}
        network = report.predictions.pop(settings.title)
        if season is not None:
            report.predictions[SEASONAL_NAME] = seasonal_naive(series.values, season, origins, H)
        report.predictions[settings.title] = network  # in the order in which a table shows them
        parts.append(part | report.predictions | {"interval": report.interval})
    whole = {
        name: None if first is None else np.concatenate([part[name] for part in parts])
        for name, first in parts[0].items()
    }
    known = {name: whole.pop(name) for name in ("origins", "fold", "truth", "interval")}
    return Backtest(**known, predictions=whole), report
