# SPDX-License-Identifier: MIT
"""A series as windows: the split by time, the scaling, and the baselines to beat.

A window is W values and the H values after them (W = window, H = horizon). Windows are views
(`sliding_window_view`): W times the memory is never taken. What is learned from data, be it a
scale or a coefficient, is learned from the training part.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from .csvfile import InputError
from .leastsquares import LeastSquares

__all__ = [
    "SCALINGS",
    "Beside",
    "Change",
    "LinearAR",
    "MinMax",
    "Split",
    "least_rows",
    "persistence",
]

LEAST_WINDOWS = 10  # to train on; with fewer nothing can be learned
_CHUNK = 4096  # windows that are looked at together in the least squares


class Split(NamedTuple):
    """Which windows of a series of n values are trained on, and which are unseen.

    Window k is values k to k + W - 1, its targets are the H values after it. All targets of the
    first `train` windows lie in the training part; all targets of the windows from `first_test`
    on lie in the unseen part.
    """

    window: int
    horizon: int
    n_train: int  # values
    train: int  # windows
    first_test: int
    windows: int  # all of them

    @classmethod
    def of(cls, n, window, horizon, test_fraction):
        """Split n values by time, the last ``test_fraction`` of them unseen.

        Examples
        --------
        >>> Split.of(100, window=10, horizon=1, test_fraction=0.2)
        Split(window=10, horizon=1, n_train=80, train=70, first_test=70, windows=90)
        """
        return cls.at(n, window, horizon, n - math.ceil(n * test_fraction))

    @classmethod
    def at(cls, n, window, horizon, n_train):
        """Split n values after the first ``n_train``; see `of`."""
        train = n_train - window - horizon + 1
        return cls(window, horizon, n_train, train, n_train - window, n - window - horizon + 1)

    @property
    def possible(self):
        """Whether there is enough to train on and something unseen."""
        return self.train >= LEAST_WINDOWS and self.windows > self.first_test


def least_rows(window, horizon, test_fraction):
    """The smallest n that `Split.of` can split.

    Examples
    --------
    >>> least_rows(window=40, horizon=1, test_fraction=0.2)
    63
    """
    n = window + horizon + LEAST_WINDOWS
    while not Split.of(n, window, horizon, test_fraction).possible:
        n += 1
    return n


def _float32(scaled):
    """``scaled`` as float32, or an InputError where that overflows."""
    with np.errstate(over="ignore"):
        result = scaled.astype(np.float32)
    if not np.isfinite(result).all():
        raise InputError(
            "the values later in the series are too large beside those of the training part: "
            "scaled by that part they leave float32"
        )
    return result


class MinMax:
    """Values scaled to [0, 1] by the smallest and the largest of the training part.

    Parameters
    ----------
    values : ndarray (n,), float64
        The training part.

    Examples
    --------
    >>> scaling = MinMax(np.array([10.0, 20.0, 30.0]))
    >>> scaling.inputs(np.array([10.0, 20.0, 40.0]), window=2)[..., 0]
    array([[0. , 0.5],
           [0.5, 1.5]], dtype=float32)
    """

    name, lost = "minmax", 0

    def __init__(self, values):
        self.low, high = float(values.min()), float(values.max())
        self.span = (high - self.low) or 1.0

    def steps(self, values):
        """What the network reads, step by step: (n,), float32."""
        return _float32((values - self.low) / self.span)

    def inputs(self, values, window):
        """What the network reads: a view (n - window + 1, window, 1), float32."""
        return sliding_window_view(self.steps(values), window)[..., None]

    def targets(self, last, following):
        """What it is to predict (n, H), float32, of the values ``following`` (n, H)."""
        return _float32((following - self.low) / self.span)

    def values(self, last, prediction):
        """The values that a prediction (n, H) means, float64."""
        return prediction.astype(np.float64) * self.span + self.low

    @property
    def config(self):
        """The numbers, JSON-able."""
        return {"scaling": self.name, "low": self.low, "span": self.span}

    @classmethod
    def from_config(cls, config):
        """The scaling with the numbers of a `config`."""
        scaling = cls.__new__(cls)
        scaling.low, scaling.span = float(config["low"]), float(config["span"])
        return scaling


class Change:
    """Changes from value to value, in units of their root mean square in the training part.

    The network predicts how far each of the next values lies from the last one it saw: a network
    that says 0 is the persistence baseline, and a level beyond that of the training part is
    nothing new to it.

    Parameters
    ----------
    values : ndarray (n,), float64
        The training part.

    Examples
    --------
    >>> scaling = Change(np.array([10.0, 12.0, 10.0]))
    >>> scaling.inputs(np.array([10.0, 12.0, 8.0]), window=3)[..., 0]
    array([[ 1., -2.]], dtype=float32)
    >>> scaling.values(last=np.array([[8.0]]), prediction=np.array([[0.5]], np.float32))
    array([[9.]])
    """

    name, lost = "change", 1  # the first step has no change

    def __init__(self, values):
        changes = np.diff(values)
        largest = float(np.abs(changes).max()) or 1.0  # its square may underflow
        self.scale = largest * math.sqrt(np.mean((changes / largest) ** 2)) or 1.0

    def steps(self, values):
        """What the network reads, step by step: (n - 1,), float32."""
        return _float32(np.diff(values) / self.scale)

    def inputs(self, values, window):
        """What the network reads: a view (n - window + 1, window - 1, 1), float32."""
        return sliding_window_view(self.steps(values), window - 1)[..., None]

    def targets(self, last, following):
        """What it is to predict (n, H), float32: ``following`` (n, H) less ``last`` (n, 1)."""
        return _float32((following - last) / self.scale)

    def values(self, last, prediction):
        """The values that a prediction (n, H) after ``last`` (n, 1) means, float64."""
        return last + prediction.astype(np.float64) * self.scale

    @property
    def config(self):
        """The number, JSON-able."""
        return {"scaling": self.name, "scale": self.scale}

    @classmethod
    def from_config(cls, config):
        """The scaling with the number of a `config`."""
        scaling = cls.__new__(cls)
        scaling.scale = float(config["scale"])
        return scaling


class Beside:
    """Exogenous variables, standardised by the training part, beside the steps of a scaling.

    Parameters
    ----------
    scaling : Change or MinMax
    exog : ndarray (n, k), float64
        The training part.

    Examples
    --------
    >>> values, exog = np.array([1.0, 2.0, 4.0, 3.0]), np.array([[1.0], [3.0], [1.0], [3.0]])
    >>> Beside(MinMax(values), exog).inputs(values, exog, window=3).shape
    (2, 3, 2)
    """

    def __init__(self, scaling, exog):
        self.scaling, self.mean, scale = scaling, exog.mean(axis=0), exog.std(axis=0)
        self.scale = np.where(scale > 0, scale, 1.0)

    def inputs(self, values, exog, window):
        """What the network reads: a view (n - window + 1, S, 1 + k), S = window or one less."""
        standard = _float32((exog - self.mean) / self.scale)[self.scaling.lost :]
        steps = np.column_stack((self.scaling.steps(values), standard))
        return sliding_window_view(steps, window - self.scaling.lost, axis=0).swapaxes(1, 2)

    @property
    def config(self):
        """The numbers, JSON-able."""
        return {"exog_mean": self.mean.tolist(), "exog_scale": self.scale.tolist()}

    @classmethod
    def from_config(cls, scaling, config):
        """As it was made, with the numbers of a `config`."""
        beside = cls.__new__(cls)
        beside.scaling = scaling
        beside.mean, beside.scale = (
            np.array(config[f"exog_{n}"], np.float64) for n in ("mean", "scale")
        )
        return beside


SCALINGS = {scaling.name: scaling for scaling in (Change, MinMax)}


def persistence(last, horizon):
    """The forecast that nothing changes: ``last`` (n, 1) for all of the horizon, (n, H).

    Examples
    --------
    >>> persistence(np.array([[3.0]]), 2)
    array([[3., 3.]])
    """
    return np.repeat(last, horizon, axis=1)


class LinearAR:
    """The linear autoregression: each next value is a weighted sum of a window and a constant.

    The weights are those of least squares over all windows of the training part, found by a QR
    decomposition that takes some thousand windows at a time.

    Parameters
    ----------
    values : ndarray (n,), float64
        The training part.
    window, horizon : int

    Examples
    --------
    >>> values = np.sin(np.arange(100) / 3)  # obeys v[t] = 2 cos(1/3) v[t-1] - v[t-2]
    >>> model = LinearAR(values[:50], window=2, horizon=1)
    >>> bool(np.allclose(model.predict(values)[:-1, 0], values[2:]))
    True
    """

    def __init__(self, values, window, horizon):
        self.window, self.horizon = window, horizon
        self.mean = float(values.mean())
        self.scale = float(np.abs(values - self.mean).max()) or 1.0
        rows = sliding_window_view((values - self.mean) / self.scale, window + horizon)
        problem = LeastSquares(window, horizon)
        for start in range(0, len(rows), _CHUNK):
            part = rows[start : start + _CHUNK]
            problem.add(part[:, :window], part[:, window:])
        self.weights = problem.solve()

    def predict(self, values):
        """The forecasts after each window of ``values``, (n - window + 1, H)."""
        scaled = (values - self.mean) / self.scale
        n = len(values) - self.window + 1
        prediction = np.tile(self.weights[-1], (n, 1))
        for k in range(self.window):  # no window is copied
            prediction += scaled[k : k + n, None] * self.weights[k]
        return prediction * self.scale + self.mean
