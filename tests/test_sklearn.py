# SPDX-License-Identifier: MIT
"""LSTMRegressor and LSTMClassifier: scikit-learn's contract, sequences of any kind, learning."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

import fastlstm as fl
from fastlstm import Spec
from fastlstm.modules import MODULES

pytest.importorskip("sklearn")

import joblib
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import (
    GridSearchCV,
    TimeSeriesSplit,
    cross_val_score,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from fastlstm.sklearn import LSTMClassifier, LSTMRegressor
from fastlstm.sklearn._inputs import read_sequences

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

# Enough epochs for the scores that check_estimator asks for
QUICK = {"hidden_size": 16, "learning_rate_init": 0.01, "max_iter": 60}


@pytest.fixture
def rng():
    return np.random.default_rng(31)


def regressor(**parameters):
    return LSTMRegressor(**{"hidden_size": 4, "max_iter": 3, "random_state": 0} | parameters)


def classifier(**parameters):
    return LSTMClassifier(**{"hidden_size": 4, "max_iter": 3, "random_state": 0} | parameters)


def table(rng, n=20, T=6):
    """X (n, T) and y (n,), the mean of each row."""
    X = rng.normal(size=(n, T))
    return X, X.mean(axis=1)


def ragged(rng, n=10, channels=2, longest=7):
    return [rng.normal(size=(k, channels)) for k in rng.integers(1, longest + 1, n)]


# -- scikit-learn's contract -----------------------------------------------------------------


def failures(estimator):
    results = check_estimator(estimator, on_fail=None, on_skip=None)
    assert len(results) > 50
    return [(r["check_name"], r["exception"]) for r in results if r["status"] == "failed"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [LSTMRegressor, LSTMClassifier])
def test_sklearn_check_estimator_passes(kind):
    assert failures(kind(**QUICK)) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [LSTMRegressor, LSTMClassifier])
def test_sklearn_check_estimator_passes_as_built(kind):
    assert failures(kind()) == []


def test_sklearn_is_named_where_it_is_missing():
    code = "import sys; sys.modules['sklearn'] = None; import fastlstm.sklearn"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert 'ImportError: fastlstm.sklearn needs scikit-learn: pip install "fastlstm[sklearn]"' in (
        done.stderr
    )


def test_sklearn_pipeline_and_grid_search_over_time(rng):
    X, y = table(rng, 60)
    pipeline = make_pipeline(StandardScaler(), regressor())
    grid = {"lstmregressor__hidden_size": [2, 5], "lstmregressor__max_iter": [1, 20]}
    search = GridSearchCV(pipeline, grid, cv=TimeSeriesSplit(2)).fit(X, y)
    best = search.best_estimator_["lstmregressor"]
    assert best.max_iter == 20
    assert best.model_.modules[0].hidden_size == best.hidden_size
    assert search.predict(X).shape == (60,)


def test_sklearn_cross_validation_of_ragged_series(rng):
    X = ragged(rng, 12)
    scores = cross_val_score(regressor(), X, [len(x) for x in X], cv=TimeSeriesSplit(3))
    assert np.isfinite(scores).all()


def test_sklearn_clone_keeps_the_parameters():
    spec = fl.Spec()
    model = regressor(spec=spec, dropout=0.25, loss="quantile", quantile=(0.1, 0.9))
    assert clone(model).get_params() == model.get_params()
    assert clone(model).spec == spec


@pytest.mark.parametrize("make", [regressor, classifier])
def test_sklearn_joblib_keeps_the_predictions(make, rng, tmp_path):
    X, y = table(rng)
    model = make().fit(X, y > 0 if make is classifier else y)
    joblib.dump(model, tmp_path / "model.joblib")
    again = joblib.load(tmp_path / "model.joblib")
    np.testing.assert_array_equal(again.predict(X), model.predict(X))


def test_sklearn_pickle_goes_on_training_to_the_same_bits(rng):
    X, y = table(rng)
    model = regressor(dropout=0.5, num_layers=2).partial_fit(X, y)
    again = pickle.loads(pickle.dumps(model))
    for m in (model, again):
        m.partial_fit(X, y)
    np.testing.assert_array_equal(again.model_.flat, model.model_.flat)


def test_sklearn_model_is_saved_as_safetensors(rng, tmp_path):
    X, y = table(rng)
    model = regressor(dtype="float32").fit(X, y)
    fl.save(tmp_path / "model.safetensors", model.model_)
    loaded = fl.load(tmp_path / "model.safetensors")
    x = X.astype(np.float32)[:, :, None]
    np.testing.assert_array_equal(loaded(x)[:, 0], model.predict(X))


def test_sklearn_names_of_columns_are_kept_and_checked(rng):
    pandas = pytest.importorskip("pandas")
    X, y = table(rng, T=2)
    frame = pandas.DataFrame(X, columns=["a", "b"])
    model = regressor().fit(frame, pandas.Series(y))
    assert list(model.feature_names_in_) == ["a", "b"]
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame[["b", "a"]])


# -- what X may be -----------------------------------------------------------------------------


def test_sklearn_table_is_one_channel(rng):
    X, y = table(rng)
    flat, deep = regressor().fit(X, y), regressor().fit(X[:, :, None], y)
    np.testing.assert_array_equal(flat.predict(X), deep.predict(X[:, :, None]))
    assert (flat.n_features_in_, deep.n_features_in_) == (6, 1)


def test_sklearn_channels_first_is_the_transposed(rng):
    X, y = rng.normal(size=(12, 5, 5)), rng.normal(size=12)  # square: a guess would not notice
    last, first = regressor().fit(X, y), regressor(channels_first=True).fit(X.swapaxes(1, 2), y)
    expected = last.predict(X)
    np.testing.assert_array_equal(first.predict(X.swapaxes(1, 2)), expected)
    assert not np.allclose(first.predict(X), expected)


@pytest.mark.parametrize("channels_first", [False, True])
def test_sklearn_ragged_series_are_read_to_their_own_ends(channels_first, rng):
    series = ragged(rng)
    X = [x.T for x in series] if channels_first else series
    model = regressor(channels_first=channels_first, bidirectional=True)
    model.fit(X, [x.sum() for x in series])
    alone = [model.model_(x[None])[0, 0] for x in series]
    np.testing.assert_allclose(model.predict(X), alone, rtol=1e-12)


def test_sklearn_ragged_training_sees_no_padding(rng):
    """A series that is far longer than the others only lengthens the padding of these."""
    X, y = ragged(rng, 6), rng.normal(size=6)
    weight = np.r_[np.ones(6), 0]
    short = regressor().fit([*X, X[0]], [*y, 0], weight).predict(X)
    long = regressor().fit([*X, rng.normal(size=(50, 2))], [*y, 0], weight).predict(X)
    np.testing.assert_allclose(long, short, rtol=1e-10)


def test_sklearn_list_of_vectors_has_one_channel(rng):
    X = [rng.normal(size=k) for k in (3, 5, 2)]
    model = regressor().fit(X, [0.0, 1.0, 2.0])
    assert model.n_features_in_ == 1
    expected = model.predict([x[:, None] for x in X])
    np.testing.assert_array_equal(model.predict(X), expected)
    # of equal length it is still series: another number of steps is no other number of features
    assert model.predict([np.zeros(9), np.ones(9)]).shape == (2,)


def test_sklearn_series_may_be_longer_in_predict(rng):
    model = regressor().fit(rng.normal(size=(8, 5, 2)), np.arange(8.0))
    x = rng.normal(size=(1, 30, 2))
    np.testing.assert_allclose(model.predict(x), model.model_(x)[:, 0], rtol=1e-12)


def test_sklearn_sliding_windows_are_not_copied(rng):
    windows = sliding_window_view(rng.normal(size=1000).astype(np.float32), 40)
    for X in (windows, windows[:, :, None]):
        x, lengths = read_sequences(regressor(), X, dtype=[np.float64, np.float32], reset=True)
        assert np.may_share_memory(x, windows)
        assert x.shape == (961, 40, 1) and x.dtype == np.float32 and lengths is None


@pytest.mark.parametrize(
    ("X", "message"),
    [
        ([np.ones((3, 2)), np.ones((0, 2))], r"X\[1\] has no steps: shape \(0, 2\)"),
        ([np.ones((3, 2)), np.ones((3, 1))], r"X\[1\] has 1 channels, but X\[0\] has 2"),
        ([np.ones((3, 2)), np.ones((1, 3, 2))], r"X\[1\] must have 1 or 2 dimensions"),
        ([np.ones(3), np.array([1.0, np.nan])], "Input X contains NaN"),
        (np.ones((2, 0, 3)), r"0 step\(s\) and 3 channel\(s\) while a minimum of 1"),
        (np.ones((2, 3, 4, 5)), "Found array with dim 4"),
        (np.full((2, 3, 1), np.inf), "Input X contains infinity"),
        (np.ones((3, 4)), r"inconsistent numbers of samples: \[3, 2\]"),
    ],
)
def test_sklearn_refuses_wrong_x(X, message):
    with pytest.raises(ValueError, match=message):
        regressor().fit(X, [0.0, 1.0])


def test_sklearn_refuses_wrong_x_in_predict(rng):
    flat = regressor().fit(*table(rng))
    deep = regressor().fit(rng.normal(size=(8, 5, 2)), np.arange(8.0))
    with pytest.raises(ValueError, match="X has 5 features, but LSTMRegressor is expecting 6"):
        flat.predict(np.zeros((2, 5)))
    with pytest.raises(ValueError, match="X has 3 features, but LSTMRegressor is expecting 2"):
        deep.predict(np.zeros((2, 5, 3)))
    with pytest.raises(ValueError, match=r"was fitted on a table .* but X is series"):
        flat.predict(np.zeros((2, 6, 1)))
    with pytest.raises(ValueError, match=r"was fitted on series .* but X is a table"):
        deep.predict(np.zeros((2, 2)))
    with pytest.raises(NotFittedError):
        classifier().predict(np.zeros((2, 6)))


# -- training ----------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [regressor, classifier])
def test_sklearn_random_state_fixes_every_bit(make, rng):
    X, y = table(rng)
    y = y > 0 if make is classifier else y
    a, b, c = (make(dropout=0.3, random_state=s).fit(X, y).model_.flat for s in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


@pytest.mark.parametrize("solver", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("schedule", ["constant", "cosine", "plateau"])
def test_sklearn_partial_fit_is_fit_in_pieces(solver, schedule, rng):
    X, y = table(rng, 40)
    # The plateau cuts the rate after 11 epochs without improvement: this rate gives it some.
    model = regressor(
        solver=solver, learning_rate=schedule, max_iter=25, n_iter_no_change=99, alpha=0.01,
        learning_rate_init=0.5, dropout=0.5,
    )  # fmt: skip
    pieces, whole = clone(model), model.fit(X, y)
    for _ in range(25):
        pieces.partial_fit(X, y)
    np.testing.assert_array_equal(pieces.model_.flat, whole.model_.flat)
    assert pieces.loss_curve_ == whole.loss_curve_
    assert pieces.n_iter_ == whole.n_iter_ == 25


def test_sklearn_warm_start_goes_on(rng):
    X, y = table(rng)
    model = regressor(warm_start=True).fit(X, y)
    model.set_params(random_state=5).fit(X, y)
    assert model.n_iter_ == len(model.loss_curve_) == 6
    assert model.loss_curve_[3] < model.loss_curve_[0]
    cold = regressor().fit(X, y).fit(X, y)
    assert cold.n_iter_ == 3
    with pytest.raises(ValueError, match="X has 4 features"):
        model.fit(X[:, :4], y)


def test_sklearn_early_stopping_watches_the_last_part(rng):
    X, y = table(rng, 50)
    y[40:] += 100
    model = regressor(early_stopping=True, validation_fraction=0.2, max_iter=8).fit(X, y)
    last = fl.evaluate(model.model_, X[40:, :, None], y[40:, None])
    assert max(model.loss_curve_) < 10 < min(model.validation_loss_curve_)
    assert last == pytest.approx(model.best_loss_)
    assert len(model.validation_loss_curve_) == model.n_iter_ == 8


def test_sklearn_early_stopping_puts_the_best_weights_back(rng):
    X, y = rng.normal(size=(30, 4)), rng.normal(size=30)  # nothing to learn but noise
    model = regressor(
        hidden_size=16, early_stopping=True, max_iter=200, learning_rate_init=0.03, tol=0.0
    )
    model.fit(X, y)
    assert model.n_iter_ < 200
    last = fl.evaluate(model.model_, X[27:, :, None], y[27:, None])
    assert last == pytest.approx(model.best_loss_) == min(model.validation_loss_curve_)
    assert last < model.validation_loss_curve_[-1]


def test_sklearn_stops_where_the_loss_stays(rng):
    X, y = table(rng)
    model = regressor(tol=1e3, n_iter_no_change=4, max_iter=50)
    model.fit(X, y)
    assert model.n_iter_ == 5  # the first, and four that are no better
    with pytest.warns(ConvergenceWarning, match=r"Maximum iterations \(3\) reached"):
        regressor().fit(X, y)


def test_sklearn_weights_count_samples_of_series(rng):
    """With all samples in one batch: weight 2 is two samples, weight 0 none."""
    X, y = rng.normal(size=(6, 4, 2)), rng.normal(size=6)
    weight = np.array([2, 0, 1, 1, 0, 3])
    one = regressor(max_iter=10).fit(X, y, weight).predict(X)
    two = regressor(max_iter=10).fit(X.repeat(weight, 0), y.repeat(weight)).predict(X)
    np.testing.assert_allclose(one, two, rtol=1e-9)
    assert not np.allclose(one, regressor(max_iter=10).fit(X, y).predict(X), rtol=1e-3)


@pytest.mark.parametrize("solver", ["adam", "adamw", "sgd"])
def test_sklearn_alpha_keeps_the_weights_small(solver, rng):
    X, y = table(rng)
    settings = {"solver": solver, "max_iter": 30, "learning_rate_init": 0.02}
    norms = [
        np.linalg.norm(regressor(alpha=alpha, **settings).fit(X, y).model_.flat)
        for alpha in (0.0, 1.0)
    ]
    assert norms[1] < 0.9 * norms[0]


def test_sklearn_clip_norm_bounds_a_step(rng):
    X, y = table(rng)
    settings = {"solver": "sgd", "max_iter": 1, "learning_rate_init": 1.0, "batch_size": 20}
    start = regressor(**settings | {"learning_rate_init": 1e-300}).fit(X, 1e3 * y).model_.flat
    step = regressor(clip_norm=0.5, **settings).fit(X, 1e3 * y).model_.flat - start
    assert np.linalg.norm(step) == pytest.approx(1.9 * 0.5, rel=1e-3)  # Nesterov: 1 + 0.9


def test_sklearn_verbose_prints_the_losses(rng, capsys):
    regressor(verbose=True, early_stopping=True).fit(*table(rng))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("Iteration 1, loss = 0.") and "validation loss = 0." in lines[2]


def test_sklearn_dtype_is_that_of_x_or_as_told(rng):
    X, y = table(rng)
    single = X.astype(np.float32)
    assert regressor().fit(X, y).predict(X).dtype == np.float64
    assert regressor().fit(single, y).predict(X).dtype == np.float32
    assert regressor(dtype="float64").fit(single, y).predict(X).dtype == np.float64
    assert regressor().fit(X.round().astype(int), y).model_.dtype == np.float64


def test_sklearn_divergence_says_where_and_what_to_try(rng):
    X, y = table(rng)
    with pytest.raises(fl.DivergenceError, match=r"diverged in epoch \d.* Try a smaller"):
        regressor(solver="sgd", learning_rate_init=1e200, clip_norm=None, max_iter=9).fit(X, y)


def test_sklearn_regressor_learns_a_constant_as_any_other_target(rng):
    """As scikit-learn's own: no error, and (filterwarnings is "error") no warning."""
    X, _ = table(rng)
    y = np.column_stack((np.full(20, 0.5), X[:, 0]))
    settings = {"max_iter": 200, "learning_rate_init": 0.02, "n_iter_no_change": 200}
    model = regressor(**settings).fit(X, y)
    np.testing.assert_allclose(model.predict(X)[:, 0], 0.5, atol=0.05)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"loss": "hinge"}, "loss must be one of 'squared_error', 'absolute_error', 'huber', 'q"),
        ({"solver": "lbfgs"}, "solver must be one of 'adam', 'adamw', 'sgd', got 'lbfgs'"),
        ({"learning_rate": "adaptive"}, "learning_rate must be one of 'constant', 'cosine'"),
        ({"cell": "elman"}, "cell must be one of 'lstm', 'gru', 'rnn', got 'elman'"),
        ({"quantile": 1.0}, "q must lie strictly between 0 and 1"),
        ({"max_iter": 0}, "max_iter must be a positive integer, got 0"),
        ({"n_iter_no_change": 2.5}, "n_iter_no_change must be a positive integer, got 2.5"),
        ({"alpha": -1.0}, "alpha must not be negative"),
        ({"tol": float("nan")}, "tol must not be negative, got nan"),
        ({"learning_rate_init": 0.0}, "learning_rate_init must be positive, got 0.0"),
        ({"early_stopping": True, "validation_fraction": 1.0}, r"fraction must be in \(0, 1\)"),
        ({"batch_size": 0}, "batch_size must be a positive integer"),
        ({"clip_norm": -1.0}, "clip_norm must be positive"),
        ({"hidden_size": 0}, "hidden_size must be at least 1"),
        ({"dropout": 2.0}, r"dropout must be in \[0, 1\]"),
    ],
)
def test_sklearn_refuses_wrong_parameters(parameters, message, rng):
    with pytest.raises(ValueError, match=message):
        regressor(**parameters).fit(*table(rng))


def test_sklearn_refuses_what_is_no_spec(rng):
    with pytest.raises(TypeError, match=r"spec must be a fastlstm.Spec or None, got 'coupled'"):
        regressor(spec="coupled").fit(*table(rng))


@pytest.mark.parametrize("make", [regressor, classifier])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_sklearn_cell_is_that_of_the_layers(make, cell, rng, tmp_path):
    X, y = ragged(rng, 12), np.arange(12) % 2
    model = make(cell=cell, num_layers=2, bidirectional=True, dropout=0.1).fit(X, y)
    assert isinstance(model.model_.modules[0], MODULES[cell.upper()])
    joblib.dump(model, tmp_path / "model")
    np.testing.assert_array_equal(joblib.load(tmp_path / "model").predict(X), model.predict(X))
    again = clone(model).fit(X, y)
    np.testing.assert_array_equal(again.predict(X), model.predict(X))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [LSTMRegressor, LSTMClassifier])
@pytest.mark.parametrize("cell", ["gru", "rnn"])
def test_sklearn_check_estimator_passes_with_other_cells(kind, cell):
    assert failures(kind(**QUICK, cell=cell)) == []


@pytest.mark.parametrize(
    "spec", [Spec(peepholes="ifo"), Spec(coupled=True, cell_clip=3.0), Spec(layer_norm=True)]
)
def test_sklearn_spec_is_that_of_the_layer(spec, rng):
    X, y = table(rng)
    model = regressor(spec=spec).fit(X, y)
    assert model.model_.modules[0].spec == spec
    assert model.loss_curve_[-1] < model.loss_curve_[0]
    with pytest.raises(ValueError, match="spec is for cell='lstm' only, got cell='gru'"):
        regressor(spec=spec, cell="gru").fit(X, y)


# -- the regressor -------------------------------------------------------------------------------


def test_regressor_has_many_outputs(rng):
    X, y = table(rng, 40)
    Y = np.column_stack((y, -y, 3 * y))
    model = regressor(hidden_size=8, max_iter=80, learning_rate_init=0.02).fit(X, Y)
    assert model.predict(X).shape == (40, 3)
    assert model.n_outputs_ == 3
    assert model.score(X, Y) > 0.9
    with pytest.raises(ValueError, match="y has 2 outputs, but was fitted with 3"):
        model.partial_fit(X, Y[:, :2])


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"loss": "squared_error"}, np.mean),
        ({"loss": "absolute_error"}, np.median),
        ({"loss": "quantile", "quantile": 0.9}, lambda y: np.quantile(y, 0.9)),
        ({"loss": "quantile", "quantile": (0.1, 0.9)}, lambda y: np.quantile(y, (0.1, 0.9))),
    ],
    ids=lambda p: "-".join(map(str, p.values())) if isinstance(p, dict) else "",
)
def test_regressor_loss_says_what_is_predicted(parameters, expected, rng):
    """On inputs that tell nothing the best prediction is a number known of each loss."""
    y = rng.exponential(size=101)
    model = regressor(
        hidden_size=2, batch_size=101, max_iter=400, learning_rate_init=0.05,
        learning_rate="cosine", tol=0.0, n_iter_no_change=400, **parameters,
    )  # fmt: skip
    prediction = model.fit(np.zeros((101, 1)), y).predict(np.zeros((1, 1)))[0]
    np.testing.assert_allclose(prediction, expected(y), atol=0.03)


def test_regressor_huber_bounds_the_pull_of_an_outlier(rng):
    y = np.r_[np.zeros(9), 90.0]
    model = regressor(
        loss="huber", hidden_size=2, max_iter=300, learning_rate_init=0.05, tol=0.0,
        n_iter_no_change=300, learning_rate="cosine",
    )  # fmt: skip
    prediction = model.fit(np.zeros((10, 1)), y).predict(np.zeros((1, 1)))
    # 9 * p = 1: the outlier pulls with 1, as if it were at p + 1
    assert prediction[0] == pytest.approx(1 / 9, abs=0.01)


def test_regressor_gives_several_quantiles_of_several_outputs(rng):
    X, y = table(rng, 60)
    Y = np.column_stack((y, y + 10))
    model = regressor(
        loss="quantile", quantile=[0.1, 0.5, 0.9], max_iter=200, learning_rate_init=0.05
    )
    p = model.fit(X, Y).predict(X)
    assert p.shape == (60, 2, 3)
    assert np.median(p[:, 0]) == pytest.approx(np.median(y), abs=1)
    assert np.median(p[:, 1]) == pytest.approx(np.median(y) + 10, abs=1)
    assert (p[..., 0] <= p[..., 2]).mean() > 0.9


# -- the classifier ------------------------------------------------------------------------------


def test_classifier_gives_labels_and_probabilities(rng):
    X, y = table(rng, 60)
    labels = np.array(["down", "flat", "up"])[np.digitize(y, (-0.2, 0.2))]
    model = classifier(hidden_size=8, max_iter=100, learning_rate_init=0.02).fit(X, labels)
    p = model.predict_proba(X)
    assert list(model.classes_) == ["down", "flat", "up"]
    assert p.shape == (60, 3) and (p >= 0).all()
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_array_equal(model.predict(X), model.classes_[p.argmax(axis=1)])
    assert model.score(X, labels) > 0.8


def test_classifier_partial_fit_is_told_all_classes(rng):
    X, _ = table(rng)
    model = classifier().partial_fit(X, np.zeros(20, int), classes=[2, 0, 1])
    assert list(model.classes_) == [0, 1, 2]
    model.partial_fit(X, np.full(20, 2))
    assert model.predict_proba(X).shape == (20, 3)
    with pytest.raises(ValueError, match=r"y has labels \[7\] that are not in classes \[0 1 2\]"):
        model.partial_fit(X, np.full(20, 7))
    with pytest.raises(ValueError, match=r"classes=\[0 1\] is not what was fitted on: \[0 1 2\]"):
        model.partial_fit(X, np.zeros(20, int), classes=[0, 1])


@pytest.mark.parametrize("weight", [None, np.r_[np.ones(10), np.zeros(10)]])
def test_classifier_needs_two_classes(weight, rng):
    X, _ = table(rng)
    y = np.repeat(["a", "a" if weight is None else "b"], 10)
    with pytest.raises(ValueError, match=r"the data contains only one class: .*'a'"):
        classifier().fit(X, y, weight)


def test_classifier_refuses_numbers_that_are_no_classes(rng):
    with pytest.raises(ValueError, match="Unknown label type: continuous"):
        classifier().fit(*table(rng))
