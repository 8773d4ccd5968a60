# SPDX-License-Identifier: MIT
"""It learns: problems with a known answer, from fixed seeds. What a network without memory reaches
stands beside each bound.
"""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from fastlstm import LSTM, Dense, Sequential, fit, optim
from fastlstm.sklearn import LSTMClassifier, LSTMForecaster, LSTMRegressor

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Maximum iterations")]


def adding_problem(n, T, rng):
    """Rows of T numbers in [0, 1), two of them marked, one in each half; the sum of these two."""
    x = np.zeros((n, T, 2), np.float32)
    x[:, :, 0] = rng.random((n, T))
    for half in (0, 1):
        x[np.arange(n), rng.integers(half * T // 2, (half + 1) * T // 2, n), 1] = 1
    return x, (x[..., 0] * x[..., 1]).sum(axis=1)


@pytest.mark.parametrize(("cell", "solves"), [("lstm", True), ("rnn", False)])
def test_the_adding_problem_needs_an_lstm(cell, solves):
    """Hochreiter & Schmidhuber (1997), 5.4; Le et al. (2015): a plain RNN stays at the variance."""
    rng = np.random.default_rng(41)
    X, y = adding_problem(5000, 60, rng)
    Xt, yt = adding_problem(1000, 60, rng)
    model = LSTMRegressor(
        32, cell=cell, learning_rate_init=0.005, max_iter=30, random_state=0, tol=0.0
    )
    error = np.mean((model.fit(X, y).predict(Xt) - yt) ** 2)
    assert yt.var() > 0.15  # what a constant reaches
    assert error < 0.02 if solves else error > 0.1


def copy_task(n, rng, symbols=8, size=3, delay=10):
    """Some symbols, a pause of ``delay``, a signal: now say them again. One-hot x, labels y."""
    said, T = rng.integers(0, symbols, (n, size)), 2 * size + delay
    x, y = np.zeros((n, T, symbols + 2), np.float32), np.full((n, T), symbols)
    x[np.arange(n)[:, None], np.arange(size), said] = 1
    x[:, size:, symbols] = 1
    x[:, size + delay - 1, symbols:] = 0, 1
    y[:, -size:] = said
    return x, y


def test_the_copy_task_is_learned():
    rng = np.random.default_rng(0)
    (x, y), (xt, yt) = copy_task(4000, rng), copy_task(500, rng)
    model = Sequential([LSTM(10, 64, batch_first=True, seed=0), Dense(64, 9, seed=1)])
    fit(
        model, x, y, epochs=50, loss="cross_entropy", optimizer=optim.Adam(0.01),
        schedule="cosine", clip_norm=1.0, batch_size=64, seed=0,
    )  # fmt: skip
    recalled = model(xt).argmax(axis=-1)[:, -3:]
    assert (recalled == yt[:, -3:]).mean() > 0.99  # by chance 0.125


def test_digits_are_read_row_by_row():
    digits = load_digits()
    X = digits.images.astype(np.float32) / 16
    X, Xt, y, yt = train_test_split(
        X, digits.target, test_size=0.25, random_state=0, stratify=digits.target
    )
    model = LSTMClassifier(64, learning_rate_init=0.005, max_iter=30, random_state=0).fit(X, y)
    assert model.score(Xt, yt) > 0.95


def japanese_vowels(split):
    """Nine speakers say a vowel: 12 cepstrum coefficients over 7 to 29 steps. UCI, in sktime."""
    datasets = pytest.importorskip("sktime.datasets")
    frame, labels = datasets.load_japanese_vowels(split=split, return_X_y=True)
    return [np.stack([c.to_numpy() for c in row]) for row in frame.to_numpy()], labels


@pytest.mark.filterwarnings("ignore")
def test_speakers_of_japanese_vowels_are_told_apart():
    (X, y), (Xt, yt) = japanese_vowels("train"), japanese_vowels("test")
    assert len({x.shape[1] for x in X}) > 5  # ragged
    model = LSTMClassifier(
        64, bidirectional=True, dropout=0.4, channels_first=True, learning_rate_init=0.01,
        learning_rate="cosine", max_iter=60, random_state=0, tol=0.0, dtype="float32",
    )  # fmt: skip
    assert model.fit(X, y).score(Xt, yt) > 0.95


@pytest.mark.filterwarnings("ignore")
def test_sunspots_are_forecast_better_than_by_persistence():
    sunspots = pytest.importorskip("statsmodels.datasets").sunspots.load_pandas().data
    model = LSTMForecaster(11, transform="difference", hidden_size=16, max_iter=60, random_state=0)
    result = model.backtest(sunspots["SUNACTIVITY"], 4, season=11)
    rmse = {name: pair[0] for name, pair in result.errors.items()}
    assert rmse["LSTM"] < 0.8 * rmse["persistence"]
    assert rmse["LSTM"] < rmse["seasonal naive"]
