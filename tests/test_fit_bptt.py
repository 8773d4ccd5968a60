# SPDX-License-Identifier: MIT
"""fit along time: truncated back-propagation with carried state, and echo-state networks."""

import math

import numpy as np
import pytest

from fastlstm import losses, optim
from fastlstm.echo import scale_recurrent
from fastlstm.fit import evaluate, fit
from fastlstm.layer import LSTM
from fastlstm.modules import Activation, Dense, Dropout, LastState, Reverse, Sequential


@pytest.fixture
def rng():
    return np.random.default_rng(29)


def network(seed=0, dropout=0.2, **arguments):
    lstm = LSTM(1, 4, 2, dropout=dropout, batch_first=True, dtype="float64", seed=seed, **arguments)
    return Sequential([lstm, Dropout(dropout), Dense(lstm.output_size, 1, dtype="float64", seed=1)])


def series(rng, n=3, T=23):
    x = rng.normal(size=(n, T, 1))
    return x, np.cumsum(x, axis=1) / 5


# -- truncated back-propagation through time ---------------------------------------------------


def test_bptt_takes_the_steps_of_a_loop_written_by_hand(rng):
    x, y = series(rng)
    model, twin = network(), network()
    history = fit(model, x, y, epochs=2, bptt=5, batch_size=2, optimizer=optim.Adam(0.01), seed=3)
    rng, adam, expected = np.random.default_rng(3), optim.Adam(0.01), []
    for _ in range(2):
        order, total = rng.permutation(3), 0.0
        for rows in (order[:2], order[2:]):
            state = None
            for t in range(0, 23, 5):
                part = x[rows, t : t + 5], y[rows, t : t + 5]
                prediction, tape = twin.forward(part[0], rng=rng, state=state)
                value, dprediction = losses.squared_error(prediction, part[1])
                _, grads = twin.backward(tape, dprediction)
                adam.step(twin.flat, grads.flat)
                (state,) = tape.states
                total += value * part[0].size
        expected.append(total / x.size)
    np.testing.assert_array_equal(model.flat, twin.flat)
    assert history["loss"] == pytest.approx(expected, rel=1e-12)


def test_bptt_of_all_steps_is_fit(rng):
    x, y = series(rng)
    one, other = network(), network()
    cut = fit(one, x, y, epochs=2, bptt=23, seed=0)
    whole = fit(other, x, y, epochs=2, seed=0)
    np.testing.assert_array_equal(one.flat, other.flat)
    assert cut["loss"] == whole["loss"]


def test_bptt_of_ragged_series_counts_their_own_steps(rng):
    """Rows of 7, 12, 0 and 3 steps in pieces of 5: the same loss as that of the whole."""
    x, y = series(rng, 4, 12)
    lengths = np.array([7, 12, 0, 3])
    for weight in (None, [1.0, 2.0, 1.0, 0.5]):
        model = network(dropout=0)
        history = fit(
            model, x, y, epochs=1, bptt=5, lengths=lengths, sample_weight=weight,
            optimizer=optim.SGD(0.0), shuffle=False,
        )  # fmt: skip
        counts = (np.arange(12) < lengths[:, None]).astype(float)
        counts *= 1 if weight is None else np.array(weight)[:, None]
        value, _ = losses.squared_error(model(x, lengths=lengths), y, counts)
        assert history["loss"] == [pytest.approx(value, rel=1e-12)]


def test_bptt_weighs_series(rng):
    x, y = series(rng, 2)
    history = fit(
        network(dropout=0), x, y, epochs=1, bptt=4, sample_weight=[1.0, 3.0],
        optimizer=optim.SGD(0.0),
    )  # fmt: skip
    value, _ = losses.squared_error(network(dropout=0)(x), y, [1.0, 3.0])
    assert history["loss"] == [pytest.approx(value, rel=1e-12)]


def test_bptt_carries_what_a_piece_does_not_show(rng):
    """The target is the first number of the series: only a carried state can tell it later."""
    sign = rng.choice([-1.0, 1.0], size=(128, 1, 1))
    x = np.concatenate((sign, rng.normal(size=(128, 15, 1)) / 10), axis=1)
    y = np.repeat(sign, 16, axis=1)
    model = network(dropout=0)
    fit(model, x, y, epochs=40, bptt=4, optimizer=optim.Adam(0.02), seed=0)
    late = model(x)[:, 8:] - y[:, 8:]
    assert np.mean(late**2) < 0.1  # without a state it is 1


def test_bptt_holds_back_the_last_steps(rng):
    x, y = series(rng, 1, 30)
    model, twin = network(), network()
    history = fit(model, x, y, epochs=2, bptt=6, validation_fraction=0.2, seed=0)
    fit(twin, x[:, :24], y[:, :24], epochs=2, bptt=6, seed=0)
    np.testing.assert_array_equal(model.flat, twin.flat)
    assert history["val_loss"][-1] == pytest.approx(evaluate(model, x[:, 24:], y[:, 24:]))
    with pytest.raises(ValueError, match="of 30 steps leaves none to train on"):
        fit(model, x, y, epochs=1, bptt=6, validation_fraction=0.99)


@pytest.mark.parametrize("more", [{}, {"norm_penalty": 0.1}])
def test_bptt_resumes_to_the_bits_of_an_uninterrupted_run(tmp_path, rng, more):
    x, y = series(rng)
    path = tmp_path / "run.safetensors"

    def run(epochs, seed=0, **rest):
        model = network(seed)
        history = fit(
            model, x, y, epochs=epochs, bptt=5, batch_size=2, early_stopping=50,
            validation_fraction=0.2, seed=4, **more, **rest,
        )  # fmt: skip
        return model, history

    whole, expected = run(6)
    run(3, checkpoint=path)
    model, history = run(6, seed=9, checkpoint=path, resume=True)
    np.testing.assert_array_equal(model.flat, whole.flat)
    for key in set(history) - {"seconds"}:
        assert history[key] == expected[key]
    for change in ({"bptt": 6}, {"norm_penalty": 0.5}):
        with pytest.raises(ValueError, match=f"{next(iter(change))} was .* there, is .* here"):
            fit(
                network(), x, y, epochs=7, batch_size=2, seed=4, checkpoint=path, resume=True,
                validation_fraction=0.2, **{"bptt": 5, **more, **change},
            )  # fmt: skip


def test_bptt_refusals(rng):
    x, y = series(rng)
    lstm, back = network().modules[0], Reverse(batch_first=True)
    for model, kind, text in (
        (Sequential([Dense(1, 1, dtype="float64")]), TypeError, "needs a Sequential with a recurr"),
        (network(bidirectional=True), ValueError, "read forwards, got a bidirectional one"),
        (Sequential([network().modules[0], back, Dense(4, 1, dtype="float64")]), ValueError,
         "a prediction at each step, got a model with Reverse"),
        (Sequential([lstm, LastState(), Dense(4, 1, dtype="float64")]), ValueError, "LastState"),
    ):  # fmt: skip
        targets = y[:, 0] if "LastState" in text else y
        with pytest.raises(kind, match=text):
            fit(model, x, targets, epochs=1, bptt=3)
    for bad in (0, 2.5, True):
        with pytest.raises(ValueError, match="bptt must be a positive integer"):
            fit(network(), x, y, epochs=1, bptt=bad)

    def total(prediction, target, weight=None):
        return losses.squared_error(prediction.sum(axis=1), target, weight)

    with pytest.raises(ValueError, match=r"bptt needs y \(n, T, ...\) = \(3, 23, '...'\), got"):
        fit(network(), x, y[:, 0], epochs=1, bptt=3, loss=total)


# -- echo-state networks -----------------------------------------------------------------------


def reservoir(H=60, seed=0, **arguments):
    lstm = LSTM(1, H, batch_first=True, dtype="float64", seed=seed, **arguments)
    return Sequential([lstm, Dense(lstm.output_size, 1, dtype="float64", seed=1)])


def delayed(rng, n=2, T=400):
    x = rng.uniform(-1, 1, size=(n, T, 1))
    y = np.zeros_like(x)
    y[:, 3:] = x[:, :-3] * x[:, 2:-1]
    return x, y


def test_echo_state_fit_solves_for_the_readout_alone(rng):
    x, y = delayed(rng)
    model, untouched = reservoir(), reservoir()
    history = fit(model, x, y, train_recurrent=False, spectral_radius=0.8, batch_size=1)
    for gate in model.parameters()["0.weight_hh_l0"].reshape(4, 60, 60):
        assert np.abs(np.linalg.eigvals(gate)).max() == pytest.approx(0.8)
    for name in ("0.weight_ih_l0", "0.bias_l0"):
        np.testing.assert_array_equal(model.parameters()[name], untouched.parameters()[name])
    # the readout is the least-squares one of the states
    states = model.features(x).reshape(-1, 60)
    design = np.column_stack((states, np.ones(len(states))))
    best = np.linalg.lstsq(design, y.ravel(), rcond=None)[0]
    residual = np.mean((design @ best - y.ravel()) ** 2)
    assert history["loss"] == [pytest.approx(residual, rel=1e-6)]
    assert residual < 0.5 * y.var()
    assert (history.best_epoch, history.stopped) == (0, "epochs")


def test_echo_state_ridge_minimises_loss_and_penalty(rng):
    x, y = delayed(rng, 3, 50)
    weight, lengths = [1.0, 2.0, 0.5], [50, 20, 0]
    model = reservoir(H=8)
    fit(
        model, x, y, train_recurrent=False, l2=0.01, sample_weight=weight, lengths=lengths,
        batch_size=2,
    )  # fmt: skip
    counts = (np.arange(50) < np.array(lengths)[:, None]) * np.array(weight)[:, None]
    prediction, tape = model.forward(x, lengths=np.array(lengths))
    _, dy = losses.squared_error(prediction, y, counts)
    _, grads = model.backward(tape, dy)
    w = model.parameters()["1.weight"]
    np.testing.assert_allclose(grads["1.weight"], -0.01 * w, rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(grads["1.bias"], 0, atol=1e-12)
    assert np.abs(w).max() > 1e-3


def test_echo_state_of_last_states_with_validation_and_projection(rng):
    x = rng.normal(size=(200, 12, 1))
    y = x[:, -1] - 0.5 * x[:, -2]
    lstm = LSTM(1, 30, proj_size=10, bidirectional=True, batch_first=True, dtype="float64", seed=0)
    model = Sequential([lstm, LastState(), Dense(20, 1, dtype="float64", seed=1)])
    history = fit(model, x, y, train_recurrent=False, l2=1e-6, validation_fraction=0.25)
    assert history["val_loss"] == [pytest.approx(evaluate(model, x[150:], y[150:]))]
    assert history["val_loss"][0] < 0.1 * y.var()
    w = lstm.parameters()
    for gate in w["weight_hh_l0_reverse"].reshape(4, 30, 10):
        radius = np.abs(np.linalg.eigvals(gate @ w["weight_hr_l0_reverse"])).max()
        assert radius == pytest.approx(0.9)


def test_echo_state_leaves_a_nilpotent_matrix_alone():
    lstm = LSTM(1, 2, dtype="float64")
    lstm.parameters()["weight_hh_l0"][...] = np.tile([[0.0, 1.0], [0.0, 0.0]], (4, 1))
    kept = lstm.flat.copy()
    scale_recurrent(lstm, 0.5)
    np.testing.assert_array_equal(lstm.flat, kept)


def test_echo_state_refusals(rng):
    x, y = delayed(rng, 1, 20)
    for settings, text in (
        ({"epochs": 3, "clip_norm": 1.0}, "one solve, not a loop: it takes no epochs, clip_norm"),
        ({"checkpoint": "a", "bptt": 3}, "it takes no bptt, checkpoint"),
        ({"loss": "huber"}, "needs loss='squared_error'"),
        ({"spectral_radius": 0.0}, "spectral_radius must be positive, got 0.0"),
        ({"spectral_radius": math.nan}, "spectral_radius must be positive"),
    ):
        model = reservoir(3)
        kept = model.flat.copy()
        with pytest.raises(ValueError, match=text):
            fit(model, x, y, train_recurrent=False, **settings)
        np.testing.assert_array_equal(model.flat, kept)
    lstm = reservoir(3).modules[0]
    for head in (Dense(3, 1, activation="tanh", dtype="float64"), Activation("tanh"),
                 Dense(3, 1, bias=False, dtype="float64")):  # fmt: skip
        targets = np.zeros((1, 20, 3)) if isinstance(head, Activation) else y
        with pytest.raises(ValueError, match="needs a Dense with bias and no activation at the en"):
            fit(Sequential([lstm, head]), x, targets, train_recurrent=False)
    with pytest.raises(TypeError, match="needs a Sequential with a recurrent layer"):
        fit(Sequential([Dense(1, 1, dtype="float64")]), x, y, train_recurrent=False)
    with pytest.raises(ValueError, match="epochs must be given"):
        fit(reservoir(3), x, y)
