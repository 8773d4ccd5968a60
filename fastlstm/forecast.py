# SPDX-License-Identifier: MIT
"""The forecasting job: a series in, errors on its unseen last part beside two baselines out.

    values -> split by time -> scaled by the training part -> windows -> the tutorial's network
           -> errors of persistence, linear autoregression and LSTM -> the next values

The parts are in series.py; csvfile.py reads the series; cli.py prints the `Report`.
"""

import math
from dataclasses import dataclass

import numpy as np

from .csvfile import InputError, Series
from .fit import History, fit
from .losses import quantile
from .modules import MODULES, Dense, Dropout, LastState, Sequential
from .optim import Adam
from .series import SCALINGS, Beside, LinearAR, Split, least_rows, persistence

__all__ = ["CELLS", "Report", "Settings", "build_network", "google_prices", "run"]

CELLS = ("lstm", "gru", "rnn")

LSTM_NAME, PERSISTENCE_NAME, AR_NAME = "LSTM", "persistence", "linear autoregression"


@dataclass(frozen=True)
class Settings:
    """What the job can be told. The defaults are the tutorial's network.

    Attributes
    ----------
    cell : {"lstm", "gru", "rnn"}
    window, horizon : int
        How many values a forecast sees, at least 2, and how many it is of.
    test_fraction : float, in (0, 1)
        The last part of the series, which nothing is learned from.
    hidden, layers : int
    dropout : float
        Between the layers and before the dense head.
    epochs, batch_size : int
    learning_rate : float
        Of Adam.
    scaling : {"change", "minmax"}
        What the network sees and predicts; see `series.Change` and `series.MinMax`.
    seed : int
        Of the weights, the order of the samples and the dropout.
    interval : float, in (0, 1), optional
        0.9: the network is trained by the quantile loss for the two ends of a 90 % interval and
        the median, which is then the forecast.
    exog : tuple of str
        The names of the exogenous variables, for the record; their past is read beside the values.
    """

    window: int = 40
    horizon: int = 1
    test_fraction: float = 0.2
    hidden: int = 45
    layers: int = 4
    dropout: float = 0.2
    epochs: int = 30
    batch_size: int = 32
    learning_rate: float = 3e-3
    scaling: str = "change"
    seed: int = 0
    cell: str = "lstm"
    interval: float | None = None
    exog: tuple = ()

    @property
    def title(self):
        """What tables and pictures call the network: "LSTM", "GRU" or "RNN"."""
        return self.cell.upper()

    @property
    def quantiles(self):
        """What the network predicts of each value: (lower end, median, upper end), or ()."""
        if self.interval is None:
            return ()
        tail = (1 - self.interval) / 2
        return tail, 0.5, 1 - tail


@dataclass
class Report:
    """What the job found.

    Attributes
    ----------
    settings : Settings
    split : Split
    coding : Coding
        With the numbers of the training part.
    truth : ndarray (n, H), float64
        The unseen values, H = horizon, for each of n windows.
    predictions : dict of str to ndarray (n, H)
        By "persistence", "linear autoregression" and "LSTM".
    interval : ndarray (n, H, 2), or None
        The two ends of the LSTM's interval.
    future : ndarray (H,)
        The network's forecast of the values after the end of the series.
    future_interval : ndarray (H, 2), or None
    history : History
        ``val_loss`` is that of the unseen part; it was watched, and nothing was chosen by it.
    network : Sequential
    """

    settings: Settings
    split: Split
    coding: object
    truth: np.ndarray
    predictions: dict
    interval: np.ndarray | None
    future: np.ndarray
    future_interval: np.ndarray | None
    history: History
    network: Sequential

    @property
    def errors(self):
        """Name -> (root mean squared error, mean absolute error) on the unseen part."""
        return {name: errors(self.truth, p) for name, p in self.predictions.items()}

    @property
    def coverage(self):
        """The part of the true values in the interval; None without one."""
        return coverage(self.truth, self.interval)


class Coding:
    """Between values and what the network reads and predicts.

    Parameters
    ----------
    settings : Settings
    scaling : Change or MinMax
    beside : Beside, optional
        Where there are exogenous variables.
    """

    def __init__(self, settings, scaling, beside=None):
        self.settings, self.scaling, self.beside = settings, scaling, beside

    @classmethod
    def of(cls, values, exog, settings):
        """Learned from the training part: values (n,), exog (n, k) or None."""
        scaling = SCALINGS[settings.scaling](values)
        return cls(settings, scaling, None if exog is None else Beside(scaling, exog))

    def inputs(self, values, exog):
        """What the network reads: a view (n - window + 1, S, 1 + k), float32."""
        if self.beside is None:
            return self.scaling.inputs(values, self.settings.window)
        return self.beside.inputs(values, exog, self.settings.window)

    def targets(self, last, following):
        """What it is to predict, float32: (n, H), with an interval (n, 3 H)."""
        targets = self.scaling.targets(last, following)
        return np.repeat(targets, len(self.settings.quantiles) or 1, axis=1)

    def values(self, last, prediction):
        """The values (n, H) that a prediction means, and their intervals (n, H, 2) or None."""
        if self.settings.interval is None:
            return self.scaling.values(last, prediction), None
        p = np.sort(prediction.reshape(len(prediction), -1, 3), axis=2)  # quantiles may cross
        low, median, high = (self.scaling.values(last, p[:, :, q]) for q in range(3))
        return median, np.stack((low, high), axis=2)

    @property
    def config(self):
        """The numbers, JSON-able."""
        return self.scaling.config | ({} if self.beside is None else self.beside.config)


def coverage(truth, interval):
    """The part of ``truth`` (n, H) that lies in ``interval`` (n, H, 2); None where that is None.

    Examples
    --------
    >>> coverage(np.array([[1.0], [2.0]]), np.array([[[0.0, 1.5]], [[0.0, 1.5]]]))
    0.5
    """
    if interval is None:
        return None
    return float(np.mean((interval[..., 0] <= truth) & (truth <= interval[..., 1])))


def errors(truth, prediction):
    """Return (root mean squared error, mean absolute error) over all elements.

    Examples
    --------
    >>> errors(np.array([0.0, 0.0]), np.array([3.0, -1.0]))
    (2.23606797749979, 2.0)
    """
    difference = np.abs(prediction - truth)
    return math.sqrt(np.mean(difference**2)), float(np.mean(difference))


def build_network(settings, backend=None):
    """The tutorial's network: LSTM layers, the last state of the top one, a dense head.

    Parameters
    ----------
    settings : Settings
    backend : {"engine", "reference"}, optional
        See `LSTM`.

    Examples
    --------
    >>> build_network(Settings(hidden=8, layers=2)).flat.size
    873
    """
    layer = MODULES[settings.title](
        1 + len(settings.exog), settings.hidden, settings.layers, dropout=settings.dropout,
        batch_first=True, seed=settings.seed, backend=backend,
    )  # fmt: skip
    outputs = settings.horizon * (len(settings.quantiles) or 1)
    head = Dense(settings.hidden, outputs, seed=settings.seed + 1)
    return Sequential([layer, LastState(), Dropout(settings.dropout), head])


def training_data(series, settings, split):
    """The coding, and all windows with their targets as the network takes them.

    Returns
    -------
    coding : Coding
    x : ndarray (split.windows + H, T, 1 + k), float32, a view
        The last one ends with the series.
    y : ndarray (split.windows, H), float32; with an interval (split.windows, 3 H)
    """
    past = series.until(split.n_train)
    coding = Coding.of(past.values, past.exog, settings)
    x = coding.inputs(series.values, series.exog)
    last, following = _last_and_following(series.values, settings.window, settings.horizon)
    return coding, x, coding.targets(last, following)


def _last_and_following(values, W, H):
    """The last value of each window (n, 1), and the H values after it (n, H): views."""
    pieces = np.lib.stride_tricks.sliding_window_view(values[W - 1 :], H + 1)
    return pieces[:, :1], pieces[:, 1:]


def run(series, settings, progress=None, split=None):
    """Train on the first part of a series, measure on the last, forecast what follows.

    Parameters
    ----------
    series : Series
    settings : Settings
    progress : bool, optional
        A progress bar; None = where stderr is a terminal.
    split : Split, optional
        None: as ``settings.test_fraction`` says.

    Returns
    -------
    Report

    Raises
    ------
    InputError
        The series is too short, or its unseen part is out of all proportion.
    DivergenceError
        The training left the finite numbers.

    Examples
    --------
    >>> wave = Series("wave", np.sin(np.arange(200) / 5))
    >>> report = run(wave, Settings(window=10, hidden=8, layers=1, epochs=2))
    >>> [name for name in report.errors]
    ['persistence', 'linear autoregression', 'LSTM']
    """
    split = check_length(series, settings) if split is None else split
    values, W, H = series.values, settings.window, settings.horizon
    coding, x, y = training_data(series, settings, split)
    train, unseen = slice(0, split.train), slice(split.first_test, split.windows)
    network = build_network(settings)
    loss = quantile(settings.quantiles * H) if settings.quantiles else "squared_error"
    history = fit(
        network, x[train], y[train], epochs=settings.epochs, batch_size=settings.batch_size,
        loss=loss, optimizer=Adam(settings.learning_rate), validation_data=(x[unseen], y[unseen]),
        seed=settings.seed, progress=progress,
    )  # fmt: skip
    last, truth = (a[unseen] for a in _last_and_following(values, W, H))
    linear = LinearAR(values[: split.n_train], W, H)
    path, interval = coding.values(last, network.predict(x[unseen]))
    predictions = {
        PERSISTENCE_NAME: persistence(last, H),
        AR_NAME: linear.predict(values)[unseen],
        settings.title: path,
    }
    future, ahead = coding.values(values[-1:, None], network(x[-1:]))
    return Report(
        settings, split, coding, truth, predictions, interval, future[0],
        None if ahead is None else ahead[0], history, network,
    )  # fmt: skip


def check_length(series, settings):
    """The `Split` of a series, or an InputError that says how many rows are needed."""
    n, sizes = len(series.values), (settings.window, settings.horizon, settings.test_fraction)
    split = Split.of(n, *sizes)
    if not split.possible:
        raise InputError(
            f"{series.name} has {n} rows; a window of {settings.window}, a horizon of "
            f"{settings.horizon} and a test fraction of {settings.test_fraction:g} need at least "
            f"{least_rows(*sizes)}"
        )
    return split


def verdict(errors):
    """Who wins on the unseen part, in plain words.

    Parameters
    ----------
    errors : dict of str to (float, float)
        As `Report.errors`.

    Examples
    --------
    >>> print(verdict({"persistence": (10.0, 8.0), "LSTM": (11.0, 7.0)}))
    By RMSE persistence wins; LSTM has 10.0 % more.
    By MAE LSTM wins; persistence has 14.3 % more.
    """
    return "\n".join(
        _winner(measure, {name: pair[k] for name, pair in errors.items()})
        for k, measure in enumerate(("RMSE", "MAE"))
    )


def _winner(measure, errors):
    first, *others = sorted(errors, key=errors.get)
    more = []
    for name in others:
        if errors[name] == errors[first]:
            more.append(f"{name} has the same")
        elif errors[first] == 0:
            more.append(f"{name} has {errors[name]:.4g} where that has 0")
        else:
            more.append(f"{name} has {100 * (errors[name] / errors[first] - 1):.1f} % more")
    return f"By {measure} {first} wins; {', '.join(more)}."


def google_prices():
    """Google's daily closing prices in dollars, 2004-08-19 to 2008-10-14, as matplotlib ships them.

    Raises
    ------
    MissingExtra
        matplotlib is not installed.
    InputError
        It was installed without its sample data.
    """
    from .plot import require_matplotlib

    require_matplotlib("the demo")
    from matplotlib.cbook import get_sample_data

    try:
        with get_sample_data("goog.npz") as archive:
            table = archive["price_data"]
    except OSError as fault:
        raise InputError(f"this matplotlib has no sample data: {fault}") from None
    dates = table["date"]
    return Series(
        "close", table["close"].astype(np.float64), dates.astype("datetime64[us]"), str(dates[-1])
    )
