# SPDX-License-Identifier: MIT
"""Walking forward through a series, beside forecasts that need no network.

------------- past -------------|-- fold 1 --|                fit, forecast from every step
-------------------- past --------------------|-- fold 2 --|  fit again, ...
"""

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from sklearn.model_selection import TimeSeriesSplit

from .. import checks
from ..forecast import AR_NAME, LSTM_NAME, PERSISTENCE_NAME, errors
from ..series import LinearAR, persistence

__all__ = ["Backtest", "seasonal_naive", "walk_forward"]

SEASONAL_NAME = "seasonal naive"


@dataclass
class Backtest:
    """What `LSTMForecaster.backtest` found. N forecasts of H = horizon values each.

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
        if self.interval is None:
            return None
        lower, upper = self.interval[..., 0], self.interval[..., 1]
        return float(np.mean((lower <= self.truth) & (self.truth <= upper)))

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


def walk_forward(new, y, exog, folds, season, test_size):
    """The `Backtest` of the forecasters that ``new()`` makes; see `LSTMForecaster.backtest`."""
    parts = []
    splits = TimeSeriesSplit(n_splits=folds, test_size=test_size).split(y)
    for k, (past, unseen) in enumerate(splits):
        forecaster = new()
        W, H = forecaster.window, forecaster.horizon
        if len(unseen) < H:
            raise ValueError(
                f"a fold must have at least horizon = {H} values, got {len(unseen)}: fewer folds, "
                "or a greater test_size"
            )
        if season is not None and checks.integer("season", season, 1) > len(past):
            raise ValueError(f"season must be at most {len(past)}, the first past, got {season}")
        origins = np.arange(unseen[0] - 1, unseen[-1] + 1 - H)
        forecaster.fit(y[past], None if exog is None else exog[past])
        parts.append(
            {
                "origins": origins,
                "fold": np.full(len(origins), k),
                "truth": y[origins[:, None] + 1 + np.arange(H)],
                **_baselines(y, len(past), W, H, season, origins),
                LSTM_NAME: _paths(forecaster, y, exog, origins),
            }
        )
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    path, interval = whole[LSTM_NAME], None
    if path.ndim == 3:
        whole[LSTM_NAME], interval = path[..., 1], path[..., [0, 2]]
    known = {name: whole.pop(name) for name in ("origins", "fold", "truth")}
    return Backtest(**known, predictions=whole, interval=interval)


def _baselines(y, n_past, W, H, season, origins):
    """Name -> forecasts (N, H), in the order in which a table shows them."""
    forecasts = {PERSISTENCE_NAME: persistence(y[origins, None], H)}
    if season is not None:
        forecasts[SEASONAL_NAME] = seasonal_naive(y, season, origins, H)
    linear = LinearAR(y[:n_past], W, H).predict(y)
    return forecasts | {AR_NAME: linear[origins - W + 1]}


def _paths(forecaster, y, exog, origins):
    """The forecasts of a fitted forecaster from many origins."""
    W, H = forecaster.window, forecaster.horizon
    starts = origins - W + 1
    rows = sliding_window_view(y, W)[starts]
    if exog is not None:
        exog = sliding_window_view(exog, W + H, axis=0).swapaxes(1, 2)[starts]
    return forecaster._paths(rows, exog, H)
