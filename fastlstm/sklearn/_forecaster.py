# SPDX-License-Identifier: MIT
"""LSTMForecaster: from a series to its next values."""

import math
import warnings

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from .. import checks
from ._backtest import walk_forward
from ._estimators import LSTMRegressor
from ._inputs import read_exog, read_series
from ._network import check_choice, store
from ._recursion import Recursion
from ._windows import Windows

__all__ = ["LSTMForecaster"]

STRATEGIES = ("direct", "recursive")


class LSTMForecaster(BaseEstimator):
    """The next values of a series: windows, a scaler fitted on them, and an `LSTMRegressor`.

    Parameters
    ----------
    window : int
        How many past values a forecast sees; at least 2 with a ``transform``.
    horizon : int
        How many values a forecast is of.
    strategy : {"direct", "recursive"}
        "direct": one network with ``horizon`` outputs. "recursive": a network for one step, which
        reads its own predictions; it can go beyond ``horizon``.
    transform : {None, "difference", "log_return"}
        None: values scaled to [0, 1]. "difference": changes from value to value, in units of
        their root mean square; a network that says 0 is then the persistence baseline, and levels
        beyond those of the past are nothing new. "log_return": the same of the logarithm, for
        prices.
    interval : float, in (0, 1), optional
        0.9: `predict_interval` gives a 90 % interval, and `predict` the median in it. "direct":
        the network is trained by the quantile loss for the two ends and the median. "recursive":
        1000 futures are simulated, with errors drawn from those of its one-step forecasts, on
        the part that ``early_stopping`` held back, else in training; see the notes.
    loss : {"squared_error", "absolute_error", "huber", "quantile"}
        Not for "direct" with an ``interval``. "quantile" is that of the median.
    hidden_size, num_layers, bidirectional, dropout, cell, spec, solver, alpha, batch_size, \
learning_rate, learning_rate_init, clip_norm, max_iter, shuffle, early_stopping, \
validation_fraction, n_iter_no_change, tol, random_state, verbose
        As for `LSTMRegressor`. The network is float32.

    Attributes
    ----------
    regressor_ : LSTMRegressor
        The network is ``regressor_.model_``.
    loss_curve_, best_loss_
        Those of the regressor, in units of the scaled values.

    Notes
    -----
    Nothing is learned from values that a forecast could not have known: the scales are those of
    the series that `fit` gets, and `backtest` fits anew for each fold.

    The simulated futures are "bootstrapped residuals" (Hyndman & Athanasopoulos, Forecasting:
    Principles and Practice, 3rd ed. 2021, section 5.5): each one-step forecast gets an error of
    the past, and is then read as the truth. They take errors to be independent and alike at all
    times. Errors in training are smaller than those to come, the more the network overfits, and
    the intervals are then too narrow: ``early_stopping`` takes errors on values that were not
    trained on. None of the intervals, of either strategy, knows how uncertain the weights are.

    Examples
    --------
    >>> import numpy as np
    >>> wave = np.sin(np.arange(240) / 5)
    >>> model = LSTMForecaster(20, 5, hidden_size=16, max_iter=60, random_state=0).fit(wave[:200])
    >>> model.predict().shape
    (5,)
    >>> bool(np.abs(model.predict() - wave[200:205]).max() < 0.2)
    True
    """

    def __init__(
        self,
        window=40,
        horizon=1,
        *,
        strategy="direct",
        transform=None,
        interval=None,
        loss="squared_error",
        hidden_size=32,
        num_layers=1,
        bidirectional=False,
        dropout=0.0,
        cell="lstm",
        spec=None,
        solver="adam",
        alpha=0.0,
        batch_size=32,
        learning_rate="constant",
        learning_rate_init=0.003,
        clip_norm=1.0,
        max_iter=50,
        shuffle=True,
        early_stopping=False,
        validation_fraction=0.1,
        n_iter_no_change=10,
        tol=0.0,
        random_state=None,
        verbose=False,
    ):
        store(self, locals())

    # -- fit and predict ---------------------------------------------------------------------

    def fit(self, y, exog=None):
        """Train on a series.

        Parameters
        ----------
        y : array_like (n,)
            In the order of time, at equal distances. All finite.
        exog : array_like (n,) or (n, k), optional
            Exogenous variables at the times of y. They must be known ahead: `predict` takes
            those of the steps to come.

        Returns
        -------
        LSTMForecaster
            The estimator itself.

        Raises
        ------
        ValueError
            y or exog hold NaN or infinities, are too short, or a parameter is out of range.
        DivergenceError
            The training left the finite numbers.

        Warns
        -----
        UserWarning
            y is constant.
        """
        self._check_parameters()
        y, exog = read_series(self, y, exog)
        least = self.window + self._ahead
        if len(y) < least:
            raise ValueError(
                f"Found array with {len(y)} sample(s) (shape={y.shape}) while a minimum of {least} "
                f"is required by LSTMForecaster: a window of {self.window} and {self._ahead} after"
            )
        if (y == y[0]).all():
            warnings.warn(
                f"y is constant, {y[0]:g} at all {len(y)} steps: its variance is zero, so there is "
                "nothing to learn, and to forecast that value again has no error",
                UserWarning,
                stacklevel=2,
            )
        self._windows = Windows(y, exog, self.window, self._ahead, self.transform)
        x, targets = self._windows.training(y, exog)
        self.regressor_ = self._regressor()
        self.regressor_._fit(x, targets if self._ahead > 1 else targets[:, 0], None)
        self.loss_curve_ = self.regressor_.loss_curve_
        self.best_loss_ = self.regressor_.best_loss_
        if self._simulates:
            held_back = self.validation_fraction if self.early_stopping else 1.0
            n = math.ceil(len(x) * held_back)
            self._errors = Recursion(self._windows, self.regressor_).errors(y, exog, n)
            self._seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
        self._remember(y, exog)
        return self

    def update(self, y, exog=None):
        """Take note of values that have come since, without training.

        Parameters
        ----------
        y, exog
            As for `fit`: what follows the values known so far.

        Returns
        -------
        LSTMForecaster
            The estimator itself.
        """
        check_is_fitted(self, "regressor_")
        y, exog = read_series(self, y, exog)
        self._check_exog(exog)
        past, past_exog = self._past
        self._windows.enter(y)  # raises where the logarithm does not exist
        both = None if exog is None else np.concatenate((past_exog, exog))
        self._remember(np.concatenate((past, y)), both)
        return self

    def predict(self, h=None, exog=None):
        """The next values.

        Parameters
        ----------
        h : int, optional
            How many; None = ``horizon``, which is also the most for "direct".
        exog : array_like (m,) or (m, k), optional
            The exogenous variables of the next m steps, where `fit` had some. m is at least
            ``horizon`` for "direct", h for "recursive".

        Returns
        -------
        ndarray (h,), float64

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            h is out of range; exog is missing, too short, or not what was fitted on.
        """
        path = self._next(h, exog)
        return path if self.interval is None else path[:, 1]

    def predict_interval(self, h=None, exog=None):
        """The two ends of the ``interval`` of each of the next values.

        Parameters and exceptions are those of `predict`.

        Returns
        -------
        ndarray (h, 2), float64

        Raises
        ------
        ValueError
            The forecaster was made without ``interval``.

        Examples
        --------
        >>> import numpy as np
        >>> noise = np.random.default_rng(0).normal(size=300)
        >>> model = LSTMForecaster(
        ...     5, 3, strategy="recursive", transform="difference", interval=0.8,
        ...     hidden_size=4, random_state=0,
        ... ).fit(np.cumsum(noise))
        >>> widths = np.diff(model.predict_interval(h=9), axis=1)[:, 0]
        >>> bool(widths[8] > 2 * widths[0])  # errors add up: about sqrt(9) times
        True
        """
        if self.interval is None:
            raise ValueError("predict_interval needs LSTMForecaster(..., interval=0.9) or the like")
        return self._next(h, exog)[:, [0, 2]]

    def backtest(self, y, folds=5, *, exog=None, season=None, test_size=None):
        """Walk forward through a series, and compare with forecasts that need no network.

        The last ``folds * test_size`` values are forecast. For each fold a clone is fitted on all
        values before it; then it forecasts from every step of the fold, with the true past.

        Parameters
        ----------
        y, exog
            As for `fit`.
        folds : int
            At least 2.
        season : int, optional
            Period of the seasonal-naive baseline, as 12 for months; None = leave it out.
        test_size : int, optional
            Values of a fold; None = ``n // (folds + 1)``.

        Returns
        -------
        Backtest

        Raises
        ------
        ValueError
            As for `fit`; or the folds are too many or too short for the horizon.

        Examples
        --------
        >>> import numpy as np
        >>> wave = np.sin(np.arange(120) / 5)
        >>> result = LSTMForecaster(10, hidden_size=4, max_iter=2).backtest(wave, 2, season=31)
        >>> list(result.errors)
        ['persistence', 'seasonal naive', 'linear autoregression', 'LSTM']
        """
        self._check_parameters()
        y, exog = read_series(self, y, exog)
        return walk_forward(lambda: clone(self), y, exog, folds, season, test_size)

    # -- how -----------------------------------------------------------------------------------

    @property
    def _ahead(self):
        """How many values the network predicts at once."""
        return self.horizon if self.strategy == "direct" else 1

    @property
    def _simulates(self):
        """Whether intervals come from simulated paths."""
        return self.strategy == "recursive" and self.interval is not None

    @property
    def _levels(self):
        """The quantiles that an interval is made of: its ends, and the median."""
        tail = (1 - self.interval) / 2
        return tail, 0.5, 1 - tail

    def _regressor(self):
        """The LSTMRegressor with the parameters that both have."""
        shared = set(LSTMRegressor().get_params()) & set(self.get_params())
        arguments = {name: getattr(self, name) for name in shared}
        if self.interval is not None and not self._simulates:
            arguments |= {"loss": "quantile", "quantile": self._levels}
        return LSTMRegressor(**arguments, dtype="float32")

    def _remember(self, y, exog):
        """Keep as much of the past as a forecast reads."""
        W = self.window
        self._past = y[-W:].copy(), None if exog is None else exog[-W:].copy()

    def _next(self, h, exog):
        """The path of the next h values, (h,), or (h, 3) with the ends of the interval."""
        check_is_fitted(self, "regressor_")
        h = self.horizon if h is None else checks.integer("h", h, 1)
        if self.strategy == "direct" and h > self.horizon:
            raise ValueError(
                f"h must be at most horizon = {self.horizon} for strategy='direct', got {h}; "
                "strategy='recursive' goes beyond"
            )
        if exog is not None:
            exog = read_exog(self, exog)
        self._check_exog(exog)
        past, past_exog = self._past
        if exog is not None:
            needed = h if self.strategy == "recursive" else self.horizon
            if len(exog) < needed:
                raise ValueError(f"exog must have the next {needed} steps, got {len(exog)}")
            exog = np.concatenate((past_exog, exog))[None]
        return self._paths(past[None], exog, h)[0]

    def _paths(self, rows, exog, h):
        """The h values that follow each of many windows.

        Parameters
        ----------
        rows : ndarray (m, window), float64
        exog : ndarray (m, window + h or more, k), float64, or None
            Of the windows and the steps after them. For "direct" of ``horizon`` steps.
        h : int
            At most ``horizon`` for "direct".

        Returns
        -------
        ndarray (m, h), or (m, h, 3) with an ``interval``: lower end, median, upper end
        """
        rows = self._windows.enter(rows.ravel()).reshape(rows.shape)
        if self.strategy == "direct":
            path = self._at_once(rows, exog)[:, :h]
        else:
            recursion = Recursion(self._windows, self.regressor_)
            if self._simulates:
                path = recursion.quantiles(rows, exog, h, self._levels, self._errors, self._seed)
            else:
                path = recursion.walk(rows, exog, h)
        return self._windows.leave(path)

    def _at_once(self, rows, exog):
        """The ``horizon`` values after each of the rows, as `_paths` but not yet left."""
        exog = None if exog is None else exog[:, : self.window + self.horizon]
        p = self.regressor_.predict(self._windows.inputs(rows, exog))
        p = p.reshape(len(rows), self.horizon, -1)
        p.sort(axis=2)  # quantiles may cross
        unscaled = self._windows.scaling.values
        path = np.stack([unscaled(rows[:, -1:], q) for q in np.moveaxis(p, 2, 0)], axis=2)
        return path if self.interval is not None else path[..., 0]

    # -- checks ----------------------------------------------------------------------------------

    def _check_parameters(self):
        check_choice("strategy", self.strategy, STRATEGIES)
        checks.integer("window", self.window, 1 if self.transform is None else 2)
        checks.integer("horizon", self.horizon, 1)
        if self.interval is not None and not 0 < self.interval < 1:
            raise ValueError(f"interval must be in (0, 1), got {self.interval!r}")

    def _check_exog(self, exog):
        """Refuse exog that is not like that of `fit`."""
        past_exog = self._past[1]
        if (exog is None) != (past_exog is None):
            had = "without" if past_exog is None else "with"
            raise ValueError(f"LSTMForecaster was fitted {had} exog, so it must be given {had} too")
        if exog is not None and exog.shape[1] != past_exog.shape[1]:
            raise ValueError(
                f"exog has {exog.shape[1]} columns, but LSTMForecaster was fitted with "
                f"{past_exog.shape[1]}"
            )
