# SPDX-License-Identifier: MIT
"""The backtest of the forecaster; see ../backtest.py."""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from sklearn.model_selection import TimeSeriesSplit

from .. import checks
from ..backtest import SEASONAL_NAME, Backtest, seasonal_naive
from ..forecast import AR_NAME, LSTM_NAME, PERSISTENCE_NAME
from ..series import LinearAR, persistence

__all__ = ["walk_forward"]


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
