# SPDX-License-Identifier: MIT
"""LSTMForecaster: what it reads, that it never reads the future, and what it is compared with."""

import pickle

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from fastlstm.backtest import seasonal_naive
from fastlstm.sklearn import LSTMForecaster, LSTMRegressor
from fastlstm.sklearn._recursion import PATHS, Recursion
from fastlstm.sklearn._windows import Windows

VARIANTS = [
    {"strategy": strategy, "transform": transform}
    for strategy in ("direct", "recursive")
    for transform in (None, "difference", "log_return")
] + [{"interval": 0.8}, {"strategy": "recursive", "interval": 0.8, "transform": "log_return"}]


def identify(parameters):
    return "-".join(map(str, parameters.values())) if isinstance(parameters, dict) else None


@pytest.fixture
def rng():
    return np.random.default_rng(37)


@pytest.fixture(params=VARIANTS, ids=identify)
def variant(request):
    """The parameters that decide how a forecast is made."""
    return request.param


@pytest.fixture(params=[False, True], ids=["alone", "exog"])
def series(request, rng):
    """A positive series (60,) and its exog (60, 2) or None."""
    y = 5 + np.sin(np.arange(60) / 4) + rng.normal(size=60) / 10
    return y, (rng.normal(size=(60, 2)) if request.param else None)


def forecaster(window=6, horizon=3, **parameters):
    small = {"hidden_size": 4, "max_iter": 2, "random_state": 0}
    return LSTMForecaster(window, horizon, **small | parameters)


def part(a, *slices):
    return None if a is None else a[slice(*slices)]


# -- what the network reads ------------------------------------------------------------------


def test_windows_of_values_are_scaled_to_one():
    y = np.array([0.0, 10.0, 5.0, 20.0, 15.0])
    x, targets = Windows(y, None, 2, 1, None).training(y, None)
    np.testing.assert_allclose(x[..., 0], [[0, 0.5], [0.5, 0.25], [0.25, 1]])
    np.testing.assert_allclose(targets, [[0.25], [1], [0.75]])
    assert x.dtype == targets.dtype == np.float32
    assert not x.flags.owndata


def test_windows_of_differences_count_from_the_last_value():
    y = np.array([1.0, 4.0, 8.0, 8.0, 13.0])  # changes 3, 4, 0, 5; root mean square sqrt(12.5)
    x, targets = Windows(y, None, 3, 2, "difference").training(y, None)
    np.testing.assert_allclose(x[..., 0], np.array([[3, 4]]) / 12.5**0.5, rtol=1e-6)
    np.testing.assert_allclose(targets, np.array([[0, 5]]) / 12.5**0.5, rtol=1e-6)


def test_windows_of_log_returns_are_differences_of_the_logarithm(rng):
    y = np.exp(rng.normal(size=20))
    x, targets = Windows(y, None, 4, 2, "log_return").training(y, None)
    logs = Windows(np.log(y), None, 4, 2, "difference").training(np.log(y), None)
    np.testing.assert_array_equal(x, logs[0])
    np.testing.assert_array_equal(targets, logs[1])


@pytest.mark.parametrize(("transform", "steps"), [(None, 3), ("difference", 2)])
def test_windows_with_exog_go_on_over_the_known_future(transform, steps, rng):
    """The channels: the value, whether it is known, exog; 3 values seen, 2 to predict."""
    y, exog = rng.normal(size=9), rng.normal(size=(9, 1))
    x, targets = Windows(y, exog, 3, 2, transform).training(y, exog)
    alone, _ = Windows(y, None, 3, 2, transform).training(y, None)
    standard = (exog[:, 0] - exog.mean()) / exog.std()
    assert x.shape == (5, steps + 2, 3) and targets.shape == (5, 2)
    for k in range(5):
        np.testing.assert_array_equal(x[k, :steps, 0], alone[k, :, 0])
        np.testing.assert_array_equal(x[k, steps:, 0], 0)
        np.testing.assert_array_equal(x[k, :, 1], [1] * steps + [0, 0])
        np.testing.assert_allclose(x[k, :, 2], standard[k + 3 - steps : k + 5], rtol=1e-6)


def test_windows_of_a_forecast_are_those_of_the_training(variant, series):
    """inputs() takes single windows, training() slides over the series: one format."""
    y, exog = series
    windows = Windows(y, exog, 6, 3, variant.get("transform"))
    x, _ = windows.training(y, exog)
    starts = np.array([0, 7, 20])
    rows = windows.enter(y)[starts[:, None] + np.arange(6)]
    known = None if exog is None else exog[starts[:, None] + np.arange(9)]
    np.testing.assert_array_equal(windows.inputs(rows, known), x[starts])


# -- fit and predict ---------------------------------------------------------------------------


def test_forecaster_is_a_regressor_on_the_windows(rng):
    y = rng.normal(size=40)
    model = forecaster(horizon=2, batch_size=8, alpha=0.1).fit(y)
    x, targets = Windows(y, None, 6, 2, None).training(y, None)
    by_hand = LSTMRegressor(
        4, max_iter=2, random_state=0, batch_size=8, alpha=0.1, learning_rate_init=0.003, tol=0.0
    )
    by_hand._fit(x, targets, None)
    np.testing.assert_array_equal(model.regressor_.model_.flat, by_hand.model_.flat)
    expected = by_hand.predict(((y[-6:] - y.min()) / np.ptp(y)).astype(np.float32)[None, :, None])
    np.testing.assert_allclose(model.predict(), expected[0] * np.ptp(y) + y.min(), rtol=1e-6)
    assert model.loss_curve_ == by_hand.loss_curve_ and model.best_loss_ == by_hand.best_loss_


def test_forecaster_gives_h_values(variant, series):
    y, exog = series
    model = forecaster(**variant).fit(y[:50], part(exog, 50))
    coming = part(exog, 50, None)
    path = model.predict(exog=coming)
    assert path.shape == (3,) and path.dtype == np.float64
    for h in (1, 2):  # the first ones of it
        np.testing.assert_allclose(model.predict(h, coming), path[:h], rtol=1e-6)
    if model.strategy == "direct":
        with pytest.raises(ValueError, match=r"h must be at most horizon = 3 .* got 4"):
            model.predict(4, coming)
    else:
        assert model.predict(8, coming).shape == (8,)


@pytest.mark.parametrize("transform", [None, "difference", "log_return"])
def test_forecaster_recursive_reads_its_own_forecasts(transform, series):
    y, exog = series
    model = forecaster(strategy="recursive", transform=transform).fit(y[:50], part(exog, 50))
    path = model.predict(5, part(exog, 50, 55))
    for k in range(5):
        (step,) = model.predict(1, part(exog, 50 + k, 51 + k))
        assert step == pytest.approx(path[k], rel=1e-6)
        model.update([step], part(exog, 50 + k, 51 + k))


def test_forecaster_update_is_the_past_without_training(variant, series):
    y, exog = series
    model = forecaster(**variant).fit(y[:40], part(exog, 40))
    weights = model.regressor_.model_.flat.copy()
    at_once, in_steps = pickle.loads(pickle.dumps(model)), model
    at_once.update(y[40:50], part(exog, 40, 50))
    for k in range(40, 50):
        in_steps.update(y[k : k + 1], part(exog, k, k + 1))
    coming = part(exog, 50, None)
    np.testing.assert_array_equal(at_once.predict(exog=coming), in_steps.predict(exog=coming))
    np.testing.assert_array_equal(in_steps.regressor_.model_.flat, weights)


@pytest.mark.parametrize("strategy", ["direct", "recursive"])
@pytest.mark.parametrize(
    ("transform", "change"),
    [
        (None, lambda y: 100 * y - 7),
        ("difference", lambda y: 100 * y - 7),
        ("log_return", lambda y: 100 * y),
    ],
)
def test_forecaster_follows_a_change_of_units(strategy, transform, change, rng):
    y = 5 + rng.random(40)
    model = forecaster(strategy=strategy, transform=transform)
    expected = change(clone(model).fit(y).predict())
    np.testing.assert_allclose(model.fit(change(y)).predict(), expected, rtol=1e-4)


@pytest.mark.parametrize("transform", ["difference", "log_return"])
def test_forecaster_of_changes_knows_levels_beyond_the_past(transform, rng):
    y = 5 + rng.random(60) / 10
    model = forecaster(transform=transform).fit(y)
    before = model.predict()
    shift = (lambda v: v + 1000) if transform == "difference" else (lambda v: v * 1000)
    after = model.update(shift(y)).predict()
    np.testing.assert_allclose(after, shift(before), rtol=1e-3)


@pytest.mark.parametrize("transform", [None, "difference", "log_return"])
def test_forecaster_of_a_constant_stays_there(transform):
    """There is no scale in it: what is divided by is 1 then. There is a warning."""
    model = forecaster(
        transform=transform, max_iter=300, n_iter_no_change=300, learning_rate_init=0.03,
        learning_rate="cosine",
    )  # fmt: skip
    with pytest.warns(UserWarning, match=r"y is constant, 7 at all 40 steps: its variance is zero"):
        model.fit(np.full(40, 7.0))
    np.testing.assert_allclose(model.predict(), 7, atol=0.02)


def test_forecaster_warns_of_a_constant_only(rng):
    """filterwarnings is "error": a constant change is something to learn, as is one other value."""
    forecaster(transform="difference").fit(np.arange(40.0))
    forecaster().fit(np.r_[np.zeros(39), 1e-300])
    with pytest.warns(UserWarning, match="y is constant, 0 at all 20 steps"):  # the first past
        forecaster().backtest(np.r_[np.zeros(20), rng.normal(size=20)], 2, test_size=10)


def test_forecaster_interval_holds_the_median_and_most_values(rng):
    y = rng.normal(size=400)
    model = forecaster(interval=0.8, max_iter=40, learning_rate_init=0.01, horizon=2)
    model.fit(y[:300])
    interval, median = model.predict_interval(), model.predict()
    assert interval.shape == (2, 2)
    assert (interval[:, 0] < median).all() and (median < interval[:, 1]).all()
    result = model.backtest(y, 2, test_size=80)
    assert result.interval.shape == (*result.truth.shape, 2)
    assert 0.65 < result.coverage < 0.95
    assert model.predict_interval(1).shape == (1, 2)


def recursive(interval=0.8, **parameters):
    return forecaster(strategy="recursive", interval=interval, **parameters)


@pytest.mark.parametrize("transform", [None, "difference", "log_return"])
def test_forecaster_recursive_interval_is_of_paths_made_one_by_one(transform, series):
    """Paths by hand: a forecast of one step, an error of the past, and that value noted as true."""
    y, exog = series
    model = recursive(transform=transform).fit(y[:50], part(exog, 50))
    enter = np.log if transform == "log_return" else np.asarray
    one_step = clone(model).set_params(interval=None).fit(y[:50], part(exog, 50))
    errors = []
    for k in range(6, 50):
        one_step.update(y[k - 6 : k], part(exog, k - 6, k))
        errors.append(enter(y[k]) - enter(one_step.predict(1, part(exog, k, k + 1))[0]))
    np.testing.assert_allclose(model._errors, errors, rtol=1e-4, atol=1e-6)

    drawn = np.random.default_rng(model._seed).choice(model._errors, size=(3, PATHS))
    paths = np.empty((3, PATHS))
    for path in (0, 1, 2, PATHS - 1):
        one_step.update(y[44:50], part(exog, 44, 50))
        for k in range(3):
            next_ = enter(one_step.predict(1, part(exog, 50 + k, 51 + k))) + drawn[k, path]
            paths[k, path] = next_[0]
            value = np.exp(next_) if transform == "log_return" else next_
            one_step.update(value, part(exog, 50 + k, 51 + k))
    many = np.repeat(enter(y[44:50])[None], PATHS, axis=0)
    known = None if exog is None else np.repeat(exog[None, 44:53], PATHS, axis=0)
    walked = Recursion(model._windows, model.regressor_).walk(many, known, 3, drawn).T
    few = [0, 1, 2, PATHS - 1]
    np.testing.assert_allclose(walked[:, few], paths[:, few], rtol=1e-5)
    ends = np.quantile(walked, [0.1, 0.5, 0.9], axis=1).T
    ends = np.exp(ends) if transform == "log_return" else ends
    np.testing.assert_allclose(model.predict(3, part(exog, 50, 53)), ends[:, 1], rtol=1e-6)
    found = model.predict_interval(3, part(exog, 50, 53))
    np.testing.assert_allclose(found, ends[:, [0, 2]], rtol=1e-6)


def test_forecaster_recursive_interval_takes_errors_of_what_was_held_back(rng):
    """With early_stopping: those of the last windows, which the network was not trained on."""
    y = rng.normal(size=57)  # 51 windows, of which ceil(10.2) are held back
    model = recursive(early_stopping=True, validation_fraction=0.2).fit(y)
    whole = Recursion(model._windows, model.regressor_).errors(y, None, 51)
    np.testing.assert_array_equal(model._errors, whole[-11:])
    assert len(recursive().fit(y)._errors) == 51


def test_forecaster_recursive_interval_is_fixed_by_random_state(rng):
    y = rng.normal(size=60)
    one, two = (recursive().fit(y).predict_interval(4) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    model = recursive(random_state=None).fit(y)
    np.testing.assert_array_equal(model.predict_interval(4), model.predict_interval(4))
    np.testing.assert_array_equal(model.predict_interval(4)[:2], model.predict_interval(2))
    other = model._seed
    model._seed = other + 1
    assert not np.array_equal(model.predict_interval(2), clone(model).fit(y).predict_interval(2))


@pytest.mark.slow
@pytest.mark.parametrize(("transform", "phi"), [(None, 0.8), ("difference", 1.0)])
def test_forecaster_recursive_interval_covers_a_known_process(transform, phi, rng):
    """v[t] = phi v[t-1] + e, e exponential: the h-step interval is known, and is lopsided."""
    shocks = rng.exponential(size=4000) - 1
    v = np.zeros(4000)
    for t in range(1, 4000):
        v[t] = phi * v[t - 1] + shocks[t]
    model = recursive(
        horizon=6, transform=transform, max_iter=40, learning_rate="cosine", hidden_size=8,
        learning_rate_init=0.01,
    ).fit(v[:3000])  # fmt: skip
    result = model.backtest(v[:3300], 2, test_size=150)
    inside = (result.interval[..., 0] <= result.truth) & (result.truth <= result.interval[..., 1])
    assert 0.74 < inside.mean() < 0.86
    assert np.abs(inside.mean(axis=0) - 0.8).max() < 0.08  # at each step of the horizon
    # by 200000 futures of the process itself, from where the series ends
    known, futures = v[3000 - 1], []
    value = np.full(200_000, known)
    for _ in range(6):
        value = phi * value + rng.exponential(size=len(value)) - 1
        futures.append(np.quantile(value, [0.1, 0.5, 0.9]))
    futures = np.array(futures)
    found = np.column_stack((model.predict(), model.predict_interval()))[:, [1, 0, 2]]
    width = futures[:, 2] - futures[:, 0]
    assert (np.abs(found - futures) < 0.1 * width[:, None]).all()
    np.testing.assert_allclose(found[:, 2] - found[:, 0], width, rtol=0.12)
    assert found[0, 2] - found[0, 1] > 1.5 * (found[0, 1] - found[0, 0])  # lopsided, as the shocks


def test_forecaster_uses_what_is_known_ahead(rng):
    """y is noise that exog tells, at the same step: only who looks there can predict it."""
    exog = rng.normal(size=300)
    y = exog + rng.normal(size=300) / 20
    for strategy in ("direct", "recursive"):
        model = forecaster(4, 2, strategy=strategy, max_iter=60, learning_rate_init=0.02)
        model.set_params(hidden_size=8).fit(y[:280], exog[:280])
        known = model.predict(2, exog[280:])
        np.testing.assert_allclose(known, y[280:282], atol=0.4)
        other = model.predict(2, exog[280:] + 1)
        assert (other - known > 0.5).all()


def test_forecaster_beats_persistence_on_a_wave():
    wave = np.sin(np.arange(400) / 5)
    result = forecaster(20, 5, hidden_size=16, max_iter=30).backtest(wave, 2, test_size=60)
    assert result.errors["LSTM"][0] < 0.2 * result.errors["persistence"][0]


@pytest.mark.parametrize("parameters", [{}, {"dropout": 0.5, "num_layers": 2}], ids=["", "dropout"])
def test_forecaster_random_state_fixes_every_bit(parameters, rng):
    y = rng.normal(size=40)
    a, b, c = (forecaster(**parameters, random_state=s).fit(y).predict() for s in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


def test_forecaster_parameters_are_scikit_learns(rng):
    model = forecaster(transform="difference", solver="sgd", early_stopping=True)
    assert clone(model).get_params() == model.get_params()
    regressor = model.fit(rng.normal(size=60)).regressor_
    for name in set(regressor.get_params()) & set(model.get_params()):
        assert getattr(regressor, name) == getattr(model, name), name
    assert len(regressor.validation_loss_curve_) == regressor.n_iter_ > 0


# -- backtest ----------------------------------------------------------------------------------


def test_backtest_forecasts_as_one_would_have(variant, series):
    """Each forecast by hand: fit on what was known at the fold's begin, walk on, predict."""
    y, exog = series
    model = forecaster(**variant)
    result = model.backtest(y, folds=2, exog=exog, test_size=10)
    assert len(result.origins) == 2 * (10 - 3 + 1)
    for row in (0, 1, 7, 8, 15):
        origin, start = result.origins[row], (40, 50)[result.fold[row]]
        by_hand = clone(model).fit(y[:start], part(exog, start))
        if origin + 1 > start:
            by_hand.update(y[start : origin + 1], part(exog, start, origin + 1))
        expected = by_hand.predict(exog=part(exog, origin + 1, origin + 4))
        np.testing.assert_allclose(result.predictions["LSTM"][row], expected, rtol=1e-6)
        np.testing.assert_array_equal(result.truth[row], y[origin + 1 : origin + 4])
        if model.interval:
            ends = by_hand.predict_interval(exog=part(exog, origin + 1, origin + 4))
            np.testing.assert_allclose(result.interval[row], ends, rtol=1e-6)


def test_backtest_sees_nothing_of_the_future(variant, series):
    y, exog = series
    model, later = forecaster(**variant), y.copy()
    later[50:] *= 3  # the second fold
    one, two = (model.backtest(v, 2, exog=exog, season=9, test_size=10) for v in (y, later))
    first = one.fold == 0
    for name, prediction in one.predictions.items():
        np.testing.assert_array_equal(prediction[first], two.predictions[name][first])
        assert not np.array_equal(prediction[~first], two.predictions[name][~first])


def test_backtest_baselines_are_what_they_say():
    wave = np.sin(np.arange(90) * 2 * np.pi / 10)  # period 10, and a linear recurrence
    result = forecaster(6, 4).backtest(wave, 3, season=10, test_size=12)
    persisted = result.predictions["persistence"]
    np.testing.assert_array_equal(persisted, wave[result.origins][:, None].repeat(4, axis=1))
    np.testing.assert_allclose(result.predictions["seasonal naive"], result.truth, atol=1e-12)
    np.testing.assert_allclose(result.predictions["linear autoregression"], result.truth, atol=1e-9)
    assert "seasonal naive" not in forecaster(6, 4).backtest(wave, 3, test_size=12).predictions


@pytest.mark.parametrize("horizon", [1, 3, 8])
def test_seasonal_naive_repeats_the_last_season(horizon, rng):
    y, origins, season = rng.normal(size=30), np.array([2, 10, 20]), 3
    for origin, path in zip(origins, seasonal_naive(y, season, origins, horizon), strict=True):
        known = list(y[: origin + 1])
        for value in path:
            assert value == known[-season]
            known.append(value)


def test_backtest_errors_are_root_mean_square_and_mean_absolute(rng):
    y = rng.normal(size=70)
    result = forecaster().backtest(y, folds=3)
    assert result.origins[0] == 70 - 3 * 17 - 1  # n // (folds + 1) values a fold
    difference = result.predictions["LSTM"] - result.truth
    expected = np.sqrt((difference**2).mean()), np.abs(difference).mean()
    assert result.errors["LSTM"] == pytest.approx(expected)
    second = difference[result.fold == 1]
    assert result.fold_errors[1]["LSTM"][0] == pytest.approx(np.sqrt((second**2).mean()))
    assert len(result.fold_errors) == 3 and result.coverage is None
    lines = str(result).splitlines()
    assert lines[0].split() == ["RMSE", "MAE", "fold", "1", "fold", "2", "fold", "3"]
    assert lines[-1].split()[:3] == ["LSTM", f"{expected[0]:.4g}", f"{expected[1]:.4g}"]
    assert len({len(line) for line in lines}) == 1


def test_backtest_leaves_the_forecaster_as_it_is(rng):
    model = forecaster()
    model.backtest(rng.normal(size=60), 2)
    with pytest.raises(NotFittedError):
        model.predict()


# -- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"strategy": "both"}, "strategy must be one of 'direct', 'recursive', got 'both'"),
        ({"transform": "log"}, "transform must be one of None, 'difference', 'log_return'"),
        ({"window": 0}, "window must be at least 1, got 0"),
        ({"window": 1, "transform": "difference"}, "window must be at least 2, got 1"),
        ({"horizon": 0}, "horizon must be at least 1, got 0"),
        ({"interval": 1.0}, r"interval must be in \(0, 1\), got 1.0"),
        ({"interval": 0.0, "strategy": "recursive"}, r"interval must be in \(0, 1\), got 0.0"),
        ({"max_iter": 0}, "max_iter must be a positive integer"),
        ({"window": 38}, r"Found array with 40 sample\(s\) .* while a minimum of 41 is required"),
        ({"transform": "log_return"}, r"log_return' needs positive values, got y\[3\] = -1.0"),
    ],
)
def test_forecaster_refuses_wrong_parameters(parameters, message):
    y = np.ones(40)
    y[3] = -1
    with pytest.raises(ValueError, match=message):
        forecaster(**parameters).fit(y)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([1.0, np.nan], "Input y contains NaN"),
        ([1.0, np.inf], "Input y contains infinity"),
        (np.ones((9, 2)), "y should be a 1d array, got an array of shape"),
        (["a", "b"], "could not convert string to float"),
        ([], "0 sample"),
    ],
)
def test_forecaster_refuses_wrong_series(y, message):
    with pytest.raises(ValueError, match=message):
        forecaster().fit(y)


def test_forecaster_refuses_wrong_exog(series):
    y, exog = series
    model = forecaster()
    if exog is None:
        model.fit(y)
        with pytest.raises(
            ValueError, match="was fitted without exog, so it must be given without"
        ):
            model.predict(exog=np.ones(3))
        return
    with pytest.raises(ValueError, match="y has 60 steps but exog has 59"):
        model.fit(y, exog[:59])
    with pytest.raises(ValueError, match="Input exog contains NaN"):
        model.fit(y, np.full((60, 1), np.nan))
    model.fit(y, exog)
    with pytest.raises(ValueError, match="was fitted with exog, so it must be given with"):
        model.predict()
    with pytest.raises(ValueError, match="exog must have the next 3 steps, got 2"):
        model.predict(1, exog[:2])
    with pytest.raises(
        ValueError, match="exog has 1 columns, but LSTMForecaster was fitted with 2"
    ):
        model.update(y, exog[:, :1])


def test_forecaster_must_be_fitted_and_asked_for_what_it_has(rng):
    y = rng.normal(size=40)
    for ask in (forecaster().predict, lambda: forecaster().update(y)):
        with pytest.raises(NotFittedError):
            ask()
    model = forecaster().fit(y)
    with pytest.raises(ValueError, match="h must be at least 1, got 0"):
        model.predict(0)
    with pytest.raises(TypeError, match=r"h must be an int, got 1\.5"):
        model.predict(1.5)
    with pytest.raises(ValueError, match="predict_interval needs LSTMForecaster"):
        model.predict_interval()


def test_forecaster_takes_a_single_column(rng):
    y = rng.normal(size=40)
    column = forecaster().fit(y[:, None], y).predict(exog=y)
    np.testing.assert_array_equal(column, forecaster().fit(y, y[:, None]).predict(exog=y[:, None]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"folds": 50, "test_size": 3}, "Too many splits=50"),
        ({"folds": 3, "test_size": 2}, "a fold must have at least horizon = 3 values, got 2"),
        ({"folds": 2, "season": 30}, "season must be at most 20, the first past, got 30"),
        ({"folds": 2, "season": 0}, "season must be at least 1"),
        ({"folds": 1}, r"at least one train/test split.* got n_splits=1"),
        ({"folds": 2, "test_size": 27}, "a minimum of 9 is required by LSTMForecaster"),
    ],
)
def test_backtest_refuses_what_cannot_be_done(arguments, message, rng):
    with pytest.raises(ValueError, match=message):
        forecaster().backtest(rng.normal(size=60), **arguments)


# -- through the packages for forecasting ------------------------------------------------------


def noisy_wave(rng):
    return np.sin(np.arange(260) / 5) + rng.normal(size=260) / 100


def reader(**parameters):
    return LSTMRegressor(16, learning_rate_init=0.01, max_iter=60, random_state=0, **parameters)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_regressor_serves_skforecast(rng):
    pandas = pytest.importorskip("pandas")
    recursive = pytest.importorskip("skforecast.recursive")
    y = noisy_wave(rng)
    model = recursive.ForecasterRecursive(estimator=reader(), lags=20)
    model.fit(pandas.Series(y[:250]))
    np.testing.assert_allclose(model.predict(10), y[250:], atol=0.1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("strategy", ["recursive", "direct", "multioutput"])
@pytest.mark.parametrize("kind", ["tabular-regressor", "time-series-regressor"])
def test_regressor_serves_sktime(strategy, kind, rng):
    pandas = pytest.importorskip("pandas")
    compose = pytest.importorskip("sktime.forecasting.compose")
    y, coming = noisy_wave(rng), np.arange(1, 6)
    panels = reader(channels_first=kind == "time-series-regressor")
    model = compose.make_reduction(panels, window_length=20, strategy=strategy, scitype=kind)
    model.fit(pandas.Series(y[:250]), fh=coming)
    np.testing.assert_allclose(np.ravel(model.predict(fh=coming)), y[250:255], atol=0.1)
