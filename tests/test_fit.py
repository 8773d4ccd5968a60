# SPDX-License-Identifier: MIT
"""fit: the same steps as by hand, reproducible, resumable, and clear about bad input."""

import io
import json
import math
import sys

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from fastlstm import losses, optim, schedules
from fastlstm.fit import DivergenceError, EarlyStopping, evaluate, fit
from fastlstm.layer import LSTM
from fastlstm.modules import Dense, Dropout, LastState, Sequential
from fastlstm.tensorfile import load_tensors, save_tensors


@pytest.fixture
def rng():
    return np.random.default_rng(23)


def network(dtype="float64", dropout=0.2, seed=0):
    return Sequential(
        [
            LSTM(1, 4, num_layers=2, dropout=dropout, batch_first=True, dtype=dtype, seed=seed),
            LastState(),
            Dropout(dropout),
            Dense(4, 1, dtype=dtype, seed=seed),
        ]
    )


def line(dtype="float64"):
    return Sequential([Dense(2, 1, dtype=dtype, seed=0)])


def waves(n=40, T=6, dtype="float64"):
    """Windows of a sine: x (n, T, 1), a view, and the value after each, y (n, 1)."""
    series = np.sin(np.arange(n + T) / 3).astype(dtype)
    windows = sliding_window_view(series, T + 1)
    return windows[:, :T, None], windows[:, T:]


def plane(rng, n=50):
    x = rng.normal(size=(n, 2))
    return x, x @ [[2.0], [-1.0]] + 0.5


# -- the loop --------------------------------------------------------------------------------------


def test_fit_takes_the_steps_of_a_loop_written_by_hand():
    x, y = waves(n=11)
    model, twin = network(), network()
    history = fit(
        model, x, y, epochs=3, batch_size=4, optimizer=optim.Adam(0.01), seed=3,
        clip_norm=0.1, clip_value=0.05, l2=0.01, l1=0.001,
    )  # fmt: skip
    rng, adam, expected = np.random.default_rng(3), optim.Adam(0.01), []
    for _ in range(3):
        order, total = rng.permutation(11), 0.0
        for rows in (order[:4], order[4:8], order[8:]):
            prediction, tape = twin.forward(x[rows], rng=rng)
            value, dprediction = losses.squared_error(prediction, y[rows])
            _, grads = twin.backward(tape, dprediction)
            for name, w in twin.parameters().items():
                if "weight" in name:
                    grads[name][...] += 0.01 * w
                    grads[name][...] += 0.001 * np.sign(w)
            optim.clip_grad_norm(grads, 0.1)
            optim.clip_grad_value(grads, 0.05)
            adam.step(twin.flat, grads.flat)
            total += value * len(rows)
        expected.append(total / 11)
    np.testing.assert_array_equal(model.flat, twin.flat)
    np.testing.assert_array_equal(history["loss"], expected)
    assert history["learning_rate"] == [0.01] * 3
    assert all(s > 0 for s in history["seconds"])
    assert history.best_epoch == int(np.argmin(expected))
    assert history.stopped == "epochs"
    assert "val_loss" not in history


def test_fit_finds_a_known_answer(rng):
    x, y = plane(rng)
    model = line()
    fit(model, x, y, epochs=60, optimizer=optim.SGD(0.1), batch_size=10, seed=0)
    np.testing.assert_allclose(model.flat, [2, -1, 0.5], atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_fit_learns_a_sine(dtype):
    x, y = waves(n=120, T=12, dtype=dtype)
    model = network(dtype, dropout=0.0)
    history = fit(model, x, y, epochs=40, optimizer=optim.Adam(0.02), seed=0)
    assert history["loss"][-1] < 0.01
    assert history["loss"][0] > 0.3
    assert evaluate(model, x, y) < 0.01
    assert model.flat.dtype == dtype


def test_fit_learns_classes_from_ragged_rows(rng):
    """The class is the sign of the last valid step; what lies behind it misleads."""
    n, T = 120, 8
    lengths = rng.integers(1, T + 1, size=n)
    x = rng.normal(size=(n, T, 1))
    labels = (x[np.arange(n), lengths - 1, 0] > 0).astype(int)
    for row, length, label in zip(x, lengths, labels, strict=True):
        row[length:] = 5 - 10 * label
    model = Sequential(
        [
            LSTM(1, 8, batch_first=True, dtype="float64", seed=0),
            LastState(),
            Dense(8, 2, dtype="float64", seed=0),
        ]
    )
    fit(
        model, x, labels, loss="cross_entropy", lengths=lengths, epochs=25,
        optimizer=optim.Adam(0.03), seed=0,
    )  # fmt: skip
    assert (model.predict(x, lengths=lengths).argmax(axis=1) == labels).mean() > 0.95


def test_the_same_seed_gives_the_same_bits():
    x, y = waves()
    results = []
    for seed in (1, 1, 2):
        model = network(seed=0)
        history = fit(model, x, y, epochs=2, seed=seed)
        results.append((model.flat, history["loss"]))
    assert (results[0][0] == results[1][0]).all()
    assert results[0][1] == results[1][1]
    assert results[0][1] != results[2][1]


def test_windows_are_never_expanded(rng):
    series = rng.normal(size=20_000).astype("float32")
    x = sliding_window_view(series, 200)[..., None]
    y = series[199:, None].copy()
    import tracemalloc

    model = Sequential([LSTM(1, 1, batch_first=True), LastState(), Dense(1, 1)])
    tracemalloc.start()
    fit(model, x[::20], y[::20], epochs=1, batch_size=4, seed=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # expanded, x[::20] takes 990 * 200 * 4 = 790 000 bytes; a tape of 4 rows, padded to 16 units,
    # 4 * 200 * 6 * 16 * 4 = 310 000
    assert x[::20].nbytes == 792_800
    assert peak < 700_000


def test_without_shuffle_batches_come_in_order(rng):
    seen = []

    def loss(prediction, target, sample_weight):
        seen.append(target[:, 0].tolist())
        return losses.squared_error(prediction, target, sample_weight)

    y = np.arange(5.0)[:, None]
    fit(line(), rng.normal(size=(5, 2)), y, epochs=2, batch_size=2, shuffle=False, loss=loss)
    assert seen[1:] == [[0, 1], [2, 3], [4]] * 2  # the first call checks a sample


def test_sample_weight_counts_as_repetition(rng):
    x, y = plane(rng, 6)
    weight = np.array([1, 2, 0, 1, 3, 1])
    rows = np.repeat(np.arange(6), weight)
    models = line(), line()
    kwargs = {"epochs": 4, "batch_size": 8, "optimizer": "adam", "shuffle": False}
    one = fit(models[0], x, y, sample_weight=weight, **kwargs)
    two = fit(models[1], x[rows], y[rows], **kwargs)
    np.testing.assert_allclose(models[0].flat, models[1].flat, rtol=1e-12)
    np.testing.assert_allclose(one["loss"], two["loss"], rtol=1e-12)


def test_epoch_loss_weighs_batches_by_their_weight(rng):
    x, y = plane(rng, 6)
    weight = np.array([1, 2, 0, 0, 3, 1.5])
    history = fit(
        line(), x, y, epochs=1, batch_size=2, optimizer=optim.SGD(0.0), sample_weight=weight
    )
    expected = losses.squared_error(line()(x), y, weight)[0]
    assert history["loss"] == pytest.approx([expected])


def test_steps_beyond_the_length_do_not_count(rng):
    lengths = np.array([4, 2, 1])
    x, y = rng.normal(size=(3, 4, 1)), rng.normal(size=(3, 4, 2))
    valid = np.arange(4) < lengths[:, None]

    def train(target, **more):
        model = Sequential(
            [
                LSTM(1, 3, batch_first=True, dtype="float64", seed=0),
                Dense(3, 2, dtype="float64", seed=0),
            ]
        )
        history = fit(model, x, target, epochs=2, lengths=lengths, seed=0, **more)
        return model, history["loss"]

    (one, first), (two, second) = train(y), train(np.where(valid[..., None], y, 1e3))
    np.testing.assert_array_equal(one.flat, two.flat)
    assert first == second
    start = Sequential(
        [
            LSTM(1, 3, batch_first=True, dtype="float64", seed=0),
            Dense(3, 2, dtype="float64", seed=0),
        ]
    )
    error = (start(x, lengths=lengths) - y)[valid]
    assert first[0] == pytest.approx((error**2).mean())
    assert train(y, sample_weight=[1, 0, 2])[1][0] != first[0]


# -- validation, stopping, schedules ---------------------------------------------------------------


def test_validation_fraction_holds_back_the_last_part():
    x, y = waves(n=30)
    models = network(), network()
    one = fit(models[0], x, y, epochs=2, validation_fraction=0.25, seed=0)
    two = fit(models[1], x[:22], y[:22], epochs=2, validation_data=(x[22:], y[22:]), seed=0)
    np.testing.assert_array_equal(models[0].flat, models[1].flat)
    assert one["val_loss"] == two["val_loss"]
    assert one["val_loss"][-1] == pytest.approx(evaluate(models[0], x[22:], y[22:]))
    assert one.best_epoch == int(np.argmin(one["val_loss"]))


def test_validation_fraction_splits_lengths_and_weights(rng):
    x, y = rng.normal(size=(8, 5, 1)), rng.normal(size=(8, 1))
    lengths, weight = rng.integers(1, 6, size=8), rng.uniform(1, 2, size=8)
    model = network()
    history = fit(
        model, x, y, epochs=1, lengths=lengths, sample_weight=weight, validation_fraction=0.5
    )
    expected = losses.squared_error(model(x[4:], lengths=lengths[4:]), y[4:], weight[4:])[0]
    assert history["val_loss"] == pytest.approx([expected])
    history = fit(model, x, y, epochs=1, lengths=lengths, validation_data=(x, y, lengths))
    expected = losses.squared_error(model(x, lengths=lengths), y)[0]
    assert history["val_loss"] == pytest.approx([expected])


def test_early_stopping_puts_the_best_weights_back(rng):
    x, y = plane(rng)
    model, kept = line(), []
    # The validation target is the opposite of what is learned: after some epochs it only worsens.
    history = fit(
        model, x, y, epochs=50, optimizer=optim.SGD(0.02), early_stopping=EarlyStopping(3),
        validation_data=(x, 0.2 * y), callback=lambda *_: kept.append(model.flat.copy()), seed=0,
    )  # fmt: skip
    best = int(np.argmin(history["val_loss"]))
    assert history.best_epoch == best
    assert len(history["loss"]) == best + 4 < 50
    assert history.stopped == "early_stopping"
    np.testing.assert_array_equal(model.flat, kept[best])
    assert (model.flat != kept[-1]).any()


def test_early_stopping_min_delta_asks_for_more_than_noise(rng):
    x, y = plane(rng)
    settings = {"epochs": 30, "optimizer": optim.SGD(1e-6), "seed": 0}
    history = fit(line(), x, y, early_stopping=EarlyStopping(4, min_delta=0.1), **settings)
    assert history.best_epoch == 0
    assert len(history["loss"]) == 5
    assert len(fit(line(), x, y, early_stopping=4, **settings)["loss"]) == 30


def test_callback_sees_the_epochs_and_stops(rng):
    x, y = plane(rng)
    seen = []

    def callback(epoch, logs):
        seen.append((epoch, logs))
        return epoch == 2

    history = fit(line(), x, y, epochs=9, callback=callback, validation_fraction=0.1)
    assert [epoch for epoch, _ in seen] == [0, 1, 2]
    assert history.stopped == "callback"
    for key in ("loss", "val_loss", "seconds", "learning_rate"):
        assert [logs[key] for _, logs in seen] == history[key]
    assert len(fit(line(), x, y, epochs=3, callback=lambda *_: 1)["loss"]) == 3


def test_schedule_sets_the_rate_of_each_epoch_and_puts_it_back(rng):
    x, y = plane(rng)
    sgd = optim.SGD(0.1)
    history = fit(line(), x, y, epochs=4, optimizer=sgd, schedule=schedules.Step(2, 0.5))
    assert history["learning_rate"] == [0.1, 0.1, 0.05, 0.05]
    assert sgd.lr == 0.1
    history = fit(line(), x, y, epochs=4, optimizer=sgd, schedule="cosine")
    assert history["learning_rate"] == pytest.approx([0.1, 0.0853553, 0.05, 0.0146447], rel=1e-5)
    frozen = optim.SGD(0.0)
    history = fit(line(), x, y, epochs=4, optimizer=frozen, schedule=schedules.Plateau(patience=1))
    assert history["learning_rate"] == [0.0] * 4
    flat = schedules.Plateau(0.5, patience=0)
    rates = fit(line(), x, y, epochs=3, optimizer=optim.SGD(1e-9), schedule=flat)["learning_rate"]
    assert rates == [1e-9, 1e-9, 5e-10]


def test_an_optimizer_goes_on_in_a_second_fit():
    x, y = waves()
    models, adam = (network(dropout=0.0), network(dropout=0.0)), optim.Adam()
    fit(models[0], x, y, epochs=4, optimizer="adam", shuffle=False)
    for _ in range(2):
        fit(models[1], x, y, epochs=2, optimizer=adam, shuffle=False)
    np.testing.assert_array_equal(models[0].flat, models[1].flat)


def test_penalties_spare_the_biases(rng):
    model = network()
    model.flat[:] = 1
    fit(model, *waves(n=4), epochs=1, optimizer=optim.SGD(1.0), clip_value=1e-9, l2=0.5)
    # clipping comes last: every gradient is at most 1e-9, so nothing but signs is left
    for name, a in model.parameters().items():
        if "weight" in name:
            assert (a < 1).all(), name
    model = line()
    start = model.flat.copy()
    nothing = np.zeros((4, 2))
    fit(
        model,
        nothing,
        model(nothing),
        epochs=1,
        batch_size=4,
        optimizer=optim.SGD(0.1),
        l2=0.5,
        l1=0.2,
    )
    expected = start - 0.1 * (0.5 * start + 0.2 * np.sign(start))
    np.testing.assert_allclose(model.flat[:2], expected[:2], rtol=1e-14)
    assert model.flat[2] == start[2]


# -- divergence ------------------------------------------------------------------------------------


def test_divergence_says_where_and_what_to_try(rng):
    x, y = plane(rng)
    with pytest.raises(DivergenceError, match=r"diverged in epoch \d+, batch \d+ .counted") as e:
        fit(line(), x, y, epochs=1000, optimizer=optim.SGD(1e3), batch_size=10, seed=0)
    assert isinstance(e.value, FloatingPointError)
    for text in ("the last gradient norm", "the learning rate 1000", "clip_norm", "scaled"):
        assert text in str(e.value)
    assert e.value.gradient_norm > 1e100
    assert not math.isfinite(e.value.loss)


def test_divergence_in_the_last_batch_is_seen(rng):
    x, y = plane(rng, 4)
    adam = optim.SGD(1e308)
    with pytest.raises(DivergenceError, match="epoch 0, after the last batch") as e:
        fit(line(), x * 100, y * 100, epochs=1, optimizer=adam)
    assert e.value.batch is None
    assert adam.lr == 1e308


def test_divergence_of_the_gradient_leaves_the_weights_when_the_norm_is_known(rng):
    def loss(prediction, target, sample_weight):
        return 1.0, np.full_like(prediction, np.inf)

    model = line()
    kept = model.flat.copy()
    with pytest.raises(DivergenceError, match="the last gradient norm nan"):
        fit(model, *plane(rng), epochs=1, loss=loss, clip_norm=1.0)
    np.testing.assert_array_equal(model.flat, kept)


# -- checkpoints -----------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_resume_gives_the_bits_of_an_uninterrupted_run(tmp_path, optimizer):
    x, y = waves()

    def run(epochs, **more):
        model = network()
        history = fit(
            model, x, y, epochs=epochs, optimizer=optimizer, validation_fraction=0.2, seed=4,
            schedule=schedules.Plateau(0.5, patience=0), early_stopping=50, batch_size=7, **more,
        )  # fmt: skip
        return model, history

    whole, expected = run(7)
    path = tmp_path / "run.safetensors"
    run(3, checkpoint=path)
    tensors, _ = load_tensors(path)
    assert ("optimizer.exp_avg" in tensors) == (optimizer == "adam")
    run(5, checkpoint=path, resume=True)
    model, history = run(7, checkpoint=path, resume=True)
    np.testing.assert_array_equal(model.flat, whole.flat)
    for key in ("loss", "val_loss", "learning_rate"):
        assert history[key] == expected[key]
    assert history.best_epoch == expected.best_epoch
    again, history = run(7, checkpoint=path, resume=True)  # nothing is left to do
    np.testing.assert_array_equal(again.flat, whole.flat)
    assert len(history["loss"]) == 7
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_resume_goes_on_after_a_crash_and_after_a_callback(tmp_path):
    x, y = waves()
    path = tmp_path / "run.safetensors"
    whole = network()
    fit(whole, x, y, epochs=4, seed=1)

    def crash(epoch, logs):
        if epoch == 2:
            raise KeyboardInterrupt

    for callback in (crash, lambda epoch, logs: epoch == 2):
        path.unlink(missing_ok=True)
        try:
            fit(network(), x, y, epochs=4, seed=1, checkpoint=path, callback=callback)
        except KeyboardInterrupt:
            assert (
                len(json.loads(load_tensors(path)[1]["fastlstm_training"])["history"]["loss"]) == 2
            )
        model = network(seed=9)
        fit(model, x, y, epochs=4, seed=77, checkpoint=path, resume=True)
        np.testing.assert_array_equal(model.flat, whole.flat)


def test_resume_knows_the_best_weights_of_before(tmp_path, rng):
    x, y = plane(rng)
    path = tmp_path / "run.safetensors"
    settings = {
        "optimizer": optim.SGD(0.02), "early_stopping": 8, "validation_data": (x, 0.2 * y),
        "seed": 0,
    }  # fmt: skip
    whole, model = line(), line()
    expected = fit(whole, x, y, epochs=40, **settings)
    half = expected.best_epoch + 4
    fit(line(), x, y, epochs=half, checkpoint=path, **settings)
    history = fit(model, x, y, epochs=40, checkpoint=path, resume=True, **settings)
    assert history.stopped == expected.stopped == "early_stopping"
    assert history["loss"] == expected["loss"]
    np.testing.assert_array_equal(model.flat, whole.flat)


def test_resume_without_a_file_begins(tmp_path, rng):
    x, y = plane(rng)
    path = tmp_path / "run.safetensors"
    models = line(), line()
    fit(models[0], x, y, epochs=2, seed=0)
    fit(models[1], x, y, epochs=2, seed=0, checkpoint=path, resume=True)
    np.testing.assert_array_equal(models[0].flat, models[1].flat)
    assert path.exists()


def test_checkpoint_minutes_saves_writes_but_never_the_last(tmp_path, rng, monkeypatch):
    x, y = plane(rng)
    written, clock = [], [0.0]
    monkeypatch.setattr("fastlstm.checkpoint.save_tensors", lambda *a: written.append(clock[0]))
    monkeypatch.setattr("fastlstm.checkpoint.time.monotonic", lambda: clock[0])

    def minute(epoch, logs):
        clock[0] += 60

    fit(line(), x, y, epochs=8, checkpoint=tmp_path / "a", checkpoint_minutes=3, callback=minute)
    assert written == [180, 360, 480]


def test_resume_refuses_the_checkpoint_of_another_run(tmp_path, rng):
    x, y = plane(rng)
    path = tmp_path / "run.safetensors"
    settings = {"epochs": 1, "checkpoint": path}
    fit(line(), x, y, **settings)
    settings |= {"epochs": 2, "resume": True}
    for text, more in (
        ("batch_size was 32 there, is 16 here", {"batch_size": 16}),
        ("optimizer was 'Adam' there, is 'SGD' here", {"optimizer": "sgd"}),
        ("shuffle was True", {"shuffle": False}),
        ("n was 50 there, is 45", {"validation_fraction": 0.1}),
    ):
        with pytest.raises(ValueError, match=text):
            fit(line(), x, y, **settings, **more)
    with pytest.raises(ValueError, match="parameters was 3 there, is 9"):
        fit(
            Sequential([Dense(2, 2, dtype="float64"), Dense(2, 1, dtype="float64")]),
            x,
            y,
            **settings,
        )
    save_tensors(path, {"a": np.ones(1)})
    with pytest.raises(ValueError, match="is no checkpoint of a training"):
        fit(line(), x, y, **settings)


# -- bad input -------------------------------------------------------------------------------------


def test_bad_data_is_named(rng):
    x, y = waves(n=8)
    x, model = np.array(x), network()
    kept = model.flat.copy()

    def refused(kind, text, x=x, y=y, **more):
        with pytest.raises(kind, match=text):
            fit(model, x, y, epochs=1, **more)

    for bad in (np.nan, np.inf):
        wrong = x.copy()
        wrong[3, 2, 0] = wrong[5, 0, 0] = bad
        refused(ValueError, rf"x must be finite, got {bad} at x\[3, 2, 0\]", x=wrong)
        wrong = y.copy()
        wrong[6] = bad
        refused(ValueError, rf"y must be finite, got {bad} at y\[6, 0\]", y=wrong)
        refused(ValueError, "validation y must be finite", validation_data=(x, wrong))
    refused(ValueError, "x has n = 8 samples but y has 7", y=y[:7])
    refused(ValueError, r"but y has \(\)", y=np.float64(3))
    refused(ValueError, "8 samples but sample_weight has 3", sample_weight=[1, 2, 3])
    refused(ValueError, "8 samples but lengths has 2", lengths=[1, 2])
    refused(ValueError, r"lengths\[4\] must be in \[0, T\] = \[0, 6\]", lengths=[1] * 4 + [9] * 4)
    refused(ValueError, "finite and not negative", sample_weight=[-1.0] * 8)
    refused(ValueError, r"sample_weight must have shape \(n,\)", sample_weight=np.ones((8, 1)))
    refused(ValueError, "are 0 in all 8 samples", sample_weight=np.zeros(8))
    refused(ValueError, "one sample or more", x=x[:0], y=y[:0])
    refused(TypeError, "x is float32 but the model is float64: convert x", x=x.astype("float32"))
    refused(TypeError, "y is float32 but the model is float64: convert y", y=y.astype("float32"))
    refused(TypeError, "x must be float32 or float64, got int64", x=x.astype(int))
    refused(TypeError, "y must be float32 or float64, got object", y=np.array([["a"]] * 8, object))
    refused(
        ValueError,
        r"y of shape \(8,\) does not fit the model's prediction of shape \(8, 1\)",
        y=y[:, 0],
    )
    refused(ValueError, "input_size = 1 features", x=np.concatenate([x, x], axis=2))
    np.testing.assert_array_equal(model.flat, kept)


def test_bad_numbers_are_found_in_every_chunk(rng, monkeypatch):
    monkeypatch.setattr("fastlstm.dataset._CHUNK", 7)  # three rows of two at a time
    x, y = plane(rng, 20)
    for row in (0, 2, 3, 19):
        wrong = x.copy()
        wrong[row, 1] = np.nan
        with pytest.raises(ValueError, match=rf"got nan at x\[{row}, 1\]"):
            fit(line(), wrong, y, epochs=1)


def test_bad_labels_are_named(rng):
    model = Sequential([Dense(2, 3, dtype="float64")])
    x = rng.normal(size=(4, 2))
    for labels, kind, text in (
        ([0, 1, 3, 2], ValueError, r"y must hold labels in \[0, C\) = \[0, 3\), got 3 at \(2,\)"),
        ([0, -1, 0, 2], ValueError, r"got -1 at \(1,\)"),
        ([0.0, 1.0, 2.0, 0.0], TypeError, "integer labels, got float64"),
    ):
        with pytest.raises(kind, match=text):
            fit(model, x, np.array(labels), loss="cross_entropy", epochs=1)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"epochs": 0}, "epochs must be a positive integer, got 0"),
        ({"epochs": 1.5}, "epochs must be a positive integer"),
        ({"batch_size": 0}, "batch_size must be a positive integer"),
        ({"clip_norm": 0}, "clip_norm must be positive"),
        ({"clip_value": -1}, "clip_value must be positive"),
        ({"l2": -1}, "l2 must not be negative"),
        ({"l1": math.nan}, "l1 must not be negative"),
        ({"checkpoint_minutes": -1}, "checkpoint_minutes must not be negative"),
        ({"validation_fraction": 1.0}, r"validation_fraction must be in \[0, 1\)"),
        ({"validation_fraction": 0.999}, "of 50 samples leaves none to train on"),
        ({"validation_fraction": 0.1, "validation_data": (1, 2)}, "not both"),
        ({"validation_data": (1,)}, r"must be a tuple \(x, y\) or"),
        ({"resume": True}, "resume needs a checkpoint"),
        ({"loss": "mse"}, "loss must be one of"),
        ({"optimizer": "rmsprop"}, "optimizer must be one of"),
        ({"schedule": "linear"}, "schedule must be one of"),
        ({"early_stopping": 0}, "patience must be at least 1"),
        ({"early_stopping": EarlyStopping, "_": TypeError}, "early_stopping must be"),
        ({"early_stopping": True, "_": TypeError}, "early_stopping must be"),
        ({"lengths": [1] * 50}, r"lengths need x of shape \(n, T, I\)"),
    ],
)
def test_bad_settings_are_refused_before_any_work(settings, text, rng):
    settings = {"epochs": 1, **settings}
    kind, model = settings.pop("_", ValueError), line()
    kept = model.flat.copy()
    with pytest.raises(kind, match=text):
        fit(model, *plane(rng), **settings)
    np.testing.assert_array_equal(model.flat, kept)


def test_models_that_cannot_be_trained():
    x, y = waves(n=4)
    with pytest.raises(TypeError, match=r"bare LSTM: fit takes Sequential\(\[lstm, ...\]\)"):
        fit(LSTM(1, 1, batch_first=True, dtype="float64"), x, y, epochs=1)
    with pytest.raises(ValueError, match="batch_first=True"):
        fit(Sequential([LSTM(1, 1, dtype="float64")]), x, y, epochs=1)
    with pytest.raises(ValueError, match="no parameters to train"):
        fit(Dropout(0.5), x, y, epochs=1)
    model = network()
    model.modules[0].freeze()
    with pytest.raises(ValueError, match="model is frozen: the parameters of LSTM"):
        fit(model, x, y, epochs=1)


# -- progress --------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_shows_on_a_terminal_only(rng, monkeypatch):
    pytest.importorskip("tqdm")
    x, y = plane(rng)

    def shown(stream, progress):
        monkeypatch.setattr(sys, "stderr", stream)
        fit(line(), x, y, epochs=2, progress=progress)
        return stream.getvalue()

    assert shown(io.StringIO(), None) == ""
    assert shown(Terminal(), False) == ""
    for stream, progress in ((Terminal(), None), (io.StringIO(), True)):
        text = shown(stream, progress)
        assert "100" in text
        assert "loss=" in text


def test_progress_without_tqdm(rng, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    x, y = plane(rng)
    with pytest.raises(ImportError, match="progress=True needs tqdm: pip install tqdm"):
        fit(line(), x, y, epochs=1, progress=True)
    monkeypatch.setattr(sys, "stderr", Terminal())
    fit(line(), x, y, epochs=1)
    assert sys.stderr.getvalue() == ""


@pytest.mark.parity
def test_fit_equals_training_in_torch():
    torch = pytest.importorskip("torch")
    x, y = waves(n=24)
    model = Sequential(
        [
            LSTM(1, 4, 2, batch_first=True, dtype="float64", seed=0),
            LastState(),
            Dense(4, 1, dtype="float64", seed=0),
        ]
    )
    lstm, head = torch.nn.LSTM(1, 4, 2, batch_first=True), torch.nn.Linear(4, 1)
    both = torch.nn.ModuleList([lstm, head]).double()
    state = {n: torch.tensor(a) for n, a in model.state_dict().items()}
    lstm.load_state_dict({n[2:]: a for n, a in state.items() if n[0] == "0"})
    head.load_state_dict({n[2:]: a for n, a in state.items() if n[0] == "2"})
    # torch has two biases where there is one here: one of them stands still
    trained = [p for n, p in both.named_parameters() if "bias_hh" not in n]
    peer, expected = torch.optim.Adam(trained, lr=0.01), []
    for _ in range(5):
        total = 0.0
        for rows in (slice(0, 10), slice(10, 20), slice(20, 24)):
            peer.zero_grad()
            h = lstm(torch.tensor(x[rows].copy()))[1][0][-1]
            value = torch.nn.functional.mse_loss(head(h), torch.tensor(y[rows].copy()))
            value.backward()
            torch.nn.utils.clip_grad_norm_(trained, 0.5)
            peer.step()
            total += value.item() * len(h)
        expected.append(total / 24)
    history = fit(
        model, x, y, epochs=5, batch_size=10, shuffle=False, optimizer=optim.Adam(0.01),
        clip_norm=0.5,
    )  # fmt: skip
    np.testing.assert_allclose(history["loss"], expected, rtol=1e-10)
