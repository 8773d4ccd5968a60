# SPDX-License-Identifier: MIT
"""The forecasting job without the command line."""

import json
from dataclasses import replace

import numpy as np
import pytest

from fastlstm.backtest import backtest
from fastlstm.csvfile import InputError, Series
from fastlstm.forecast import (
    Settings,
    build_network,
    errors,
    google_prices,
    run,
    training_data,
    verdict,
)
from fastlstm.forecast_file import load_network, save_network
from fastlstm.io import load
from fastlstm.series import SCALINGS
from fastlstm.tensorfile import load_tensors

SMALL = Settings(window=12, hidden=8, layers=1, epochs=2, dropout=0.0)


@pytest.fixture(scope="module")
def wave():
    """A sine on a slope: neither persistence nor a constant forecasts it."""
    t = np.arange(240)
    return Series("wave", 0.02 * t + np.sin(t / 3))


@pytest.mark.parametrize("scaling", sorted(SCALINGS))
@pytest.mark.parametrize("horizon", [1, 4])
def test_run_reports_the_unseen_part(wave, scaling, horizon):
    report = run(wave, replace(SMALL, scaling=scaling, horizon=horizon))
    first = report.split.n_train
    assert first == 192
    n = 240 - first - horizon + 1
    expected = np.array([wave.values[first + k : first + k + horizon] for k in range(n)])
    np.testing.assert_array_equal(report.truth, expected)
    for prediction in report.predictions.values():
        assert prediction.shape == (n, horizon)
    held = np.repeat(wave.values[first - 1 : first - 1 + n, None], horizon, axis=1)
    np.testing.assert_array_equal(report.predictions["persistence"], held)
    # a sine on a slope obeys a linear recurrence: the linear autoregression is exact
    assert report.errors["linear autoregression"][0] < 1e-6
    assert report.future.shape == (horizon,) and np.isfinite(report.future).all()
    assert len(report.history["loss"]) == len(report.history["val_loss"]) == 2


def test_run_learns(wave):
    report = run(wave, replace(SMALL, hidden=16, epochs=40, learning_rate=0.01))
    assert report.errors["LSTM"][0] < 0.5 * report.errors["persistence"][0]
    # and what follows is forecast as well: the same sine
    assert abs(report.future[0] - (0.02 * 240 + np.sin(80))) < 0.2


def test_run_is_reproducible_by_its_seed(wave):
    same, other = run(wave, SMALL), run(wave, replace(SMALL, seed=1))
    again = run(wave, SMALL)
    np.testing.assert_array_equal(again.network.flat, same.network.flat)
    np.testing.assert_array_equal(again.future, same.future)
    assert not np.array_equal(other.future, same.future)


def test_run_learns_nothing_from_the_unseen_part(wave):
    values = wave.values.copy()
    values[192:] = values[192:][::-1] + 3
    one, two = run(wave, SMALL), run(Series("other", values), SMALL)
    np.testing.assert_array_equal(one.network.flat, two.network.flat)
    assert one.history["val_loss"] != two.history["val_loss"]
    for name, prediction in one.predictions.items():  # the first unseen window is the same
        assert prediction[0] == two.predictions[name][0], name


def test_run_forecasts_from_the_last_window(wave):
    values = wave.values.copy()
    values[-1] += 1.0  # seen by the last window alone
    one, two = run(wave, SMALL), run(Series("other", values), SMALL)
    assert abs(two.future[0] - one.future[0]) > 0.1


def test_run_takes_a_constant_series():
    report = run(Series("constant", np.full(80, 7.0)), SMALL)
    assert report.errors["persistence"] == (0, 0)
    assert np.isfinite(report.errors["LSTM"]).all()
    assert "where that has 0" in verdict(report.errors) or "the same" in verdict(report.errors)


def test_run_refuses_a_short_series():
    with pytest.raises(InputError) as fault:
        run(Series("close", np.arange(30.0)), Settings())
    assert str(fault.value) == (
        "close has 30 rows; a window of 40, a horizon of 1 and a test fraction of 0.2 need at "
        "least 63"
    )
    assert len(run(Series("close", np.sin(np.arange(63.0))), replace(SMALL, window=40)).truth) == 13


def test_training_data_pairs_windows_with_what_follows(wave):
    report_settings = replace(SMALL, scaling="minmax", horizon=2)
    split = run(wave, report_settings).split
    coding, x, y = training_data(wave, report_settings, split)
    assert len(y) == split.windows and len(x) == split.windows + 2
    # the target of window k is what windows k + 1 and k + 2 end with
    np.testing.assert_array_equal(y[:, 0], x[1:-1, -1, 0])
    np.testing.assert_array_equal(y[:, 1], x[2:, -1, 0])
    assert coding.scaling.name == "minmax"


def test_network_is_the_tutorials():
    network = build_network(Settings())
    assert [m["type"] for m in network.config["modules"]] == [
        "LSTM", "LastState", "Dropout", "Dense",
    ]  # fmt: skip
    lstm, _, dropout, dense = network.modules
    assert (lstm.input_size, lstm.hidden_size, lstm.num_layers) == (1, 45, 4)
    assert (lstm.dropout, lstm.batch_first, dropout.p) == (0.2, True, 0.2)
    assert (dense.in_features, dense.out_features) == (45, 1)


def test_save_network_keeps_what_a_forecast_takes(wave, tmp_path):
    path = tmp_path / "model.safetensors"
    report = run(wave, SMALL)
    save_network(path, report, wave)
    network = load(path)
    np.testing.assert_array_equal(network.flat, report.network.flat)
    job = json.loads(load_tensors(path)[1]["fastlstm.forecast"])
    assert job["column"] == "wave" and job["window"] == 12 and job["scaling"] == "change"
    # by hand, from the file alone: the forecast of the report
    changes = np.diff(wave.values[-job["window"] :]) / job["scale"]
    prediction = network(changes.astype(np.float32)[None, :, None])[0, 0]
    assert wave.values[-1] + prediction * job["scale"] == pytest.approx(report.future[0], rel=1e-6)


@pytest.mark.parametrize("scaling", sorted(SCALINGS))
@pytest.mark.parametrize("interval", [None, 0.8])
def test_a_saved_network_forecasts_what_it_did(wave, tmp_path, scaling, interval):
    path = tmp_path / "model.safetensors"
    series = wave._replace(exog=np.column_stack((np.cos(np.arange(240)), np.ones(240))))
    settings = replace(SMALL, scaling=scaling, interval=interval, exog=("cosine", "one"), horizon=2)
    report = run(series, settings)
    save_network(path, report, series)
    trained = load_network(path)
    path_ahead, ends = trained.forecast(series)
    np.testing.assert_allclose(path_ahead, report.future, rtol=1e-6)
    assert (ends is None) == (interval is None)
    if interval is not None:
        np.testing.assert_allclose(ends, report.future_interval, rtol=1e-6)
        assert (ends[:, 0] <= path_ahead).all() and (path_ahead <= ends[:, 1]).all()
        assert report.interval.shape == (*report.truth.shape, 2)
        assert 0 <= report.coverage <= 1
    with pytest.raises(InputError, match="wave has 11 rows; this network reads the last 12"):
        trained.forecast(series.until(11))


def test_run_reads_the_past_of_exogenous_variables():
    """The change of the value is what another column said a step before."""
    rng = np.random.default_rng(0)
    news = rng.normal(size=400)
    values = np.cumsum(np.r_[0, news[:-1]])
    settings = replace(SMALL, hidden=16, epochs=30, learning_rate=0.01)
    alone = run(Series("value", values), settings)
    told = run(Series("value", values, exog=news[:, None]), replace(settings, exog=("news",)))
    assert told.errors["LSTM"][0] < 0.3 * alone.errors["LSTM"][0]
    series = Series("value", values, exog=news[:, None])
    _, x, _ = training_data(series, settings, told.split)
    seen = news[: told.split.n_train]
    expected = (news[4:15] - seen.mean()) / seen.std()  # beside the change from 3 to 4, ...
    np.testing.assert_allclose(x[3, :, 1], expected, rtol=1e-5)


def test_interval_of_a_noise_holds_what_it_says():
    values = np.random.default_rng(1).normal(size=1500)
    report = run(Series("noise", values), replace(SMALL, interval=0.8, epochs=8, scaling="minmax"))
    assert 0.7 < report.coverage < 0.9


def test_backtest_fits_each_fold_on_what_comes_before(wave):
    result, report = backtest(wave, replace(SMALL, horizon=2), folds=3, season=19)
    assert list(result.predictions) == [
        "persistence", "linear autoregression", "seasonal naive", "LSTM",
    ]  # fmt: skip
    np.testing.assert_array_equal(np.bincount(result.fold), [59, 59, 59])
    for k in range(2):
        ahead = wave.values[result.origins + 1 + k]
        np.testing.assert_array_equal(result.truth[:, k], ahead)
        past = wave.values[result.origins + 1 + k - 19]
        np.testing.assert_array_equal(result.predictions["seasonal naive"][:, k], past)
    # the first fold is a run on the first 120 values, of which 60 are unseen
    alone = run(wave.until(120), replace(SMALL, horizon=2, test_fraction=0.5))
    np.testing.assert_array_equal(result.predictions["LSTM"][:59], alone.predictions["LSTM"])
    assert report.split.n_train == 180
    assert np.isfinite(report.future).all()


def test_backtest_sees_nothing_of_the_future(wave):
    changed = wave.values.copy()
    changed[180:] = 0
    one, _ = backtest(wave, SMALL, folds=3)
    two, _ = backtest(Series("other", changed), SMALL, folds=3)
    before = one.origins < 180 - 1
    for name, prediction in one.predictions.items():
        np.testing.assert_array_equal(prediction[before], two.predictions[name][before])


def test_errors_by_hand():
    truth, prediction = np.array([[1.0, 2.0]]), np.array([[4.0, -2.0]])
    assert errors(truth, prediction) == (np.sqrt(12.5), 3.5)


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        (
            {"a": (2.0, 1.0), "b": (1.0, 2.0), "c": (4.0, 1.0)},
            "By RMSE b wins; a has 100.0 % more, c has 300.0 % more.\n"
            "By MAE a wins; c has the same, b has 100.0 % more.",
        ),
        (
            {"a": (0.0, 0.0), "b": (0.0, 0.5)},
            "By RMSE a wins; b has the same.\nBy MAE a wins; b has 0.5 where that has 0.",
        ),
    ],
    ids=["ties", "zero"],
)
def test_verdict_says_who_wins(pairs, expected):
    assert verdict(pairs) == expected


def test_google_prices_are_the_real_ones():
    pytest.importorskip("matplotlib")
    series = google_prices()
    assert series.values.shape == series.dates.shape == (1047,)
    assert series.values[0] == 100.34  # the close of the first day of trading
    assert str(series.dates[0])[:10] == "2004-08-19" and series.last_date == "2008-10-14"
    assert (np.diff(series.dates) > np.timedelta64(0)).all()
