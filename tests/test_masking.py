# SPDX-License-Identifier: MIT
"""Masks: a step that does not count is as if it were not there; gradients; where a mask ends."""

import numpy as np
import pytest
from test_modules import check_gradients

from fastlstm.io import load, save
from fastlstm.layer import LSTM
from fastlstm.modules import (
    Dense,
    Dropout,
    Embedding,
    Flatten,
    LastState,
    Masking,
    MergeDirections,
    Reverse,
    Sequential,
    ZeroMasked,
)

B, T, I = 5, 6, 3
# ragged at the end, at the start, in the middle, none at all, all
MASK = np.array(
    [[1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1], [1, 0, 1, 0, 0, 1], [0] * 6, [1] * 6], bool
)
KEYWORDS = {"batch_first": True, "dtype": "float64"}


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture
def x(rng):
    x = rng.standard_normal((B, T, I))
    x[~MASK] = -1.0
    return x


def only_what_counts(layer, x, mask):
    """The outputs for one row with the other steps cut out."""
    return layer(x[mask][None])[0][0] if mask.any() else np.zeros((0, layer.output_size))


@pytest.mark.parametrize("batch_first", [True, False])
def test_sequences_say_the_last_output_again(x, batch_first):
    layer = LSTM(I, 4, 2, batch_first=batch_first, dtype="float64", seed=1)
    model = Sequential([Masking(-1.0), layer])
    y = model(x if batch_first else x.swapaxes(0, 1))
    y = y if batch_first else y.swapaxes(0, 1)
    one = LSTM(I, 4, 2, **KEYWORDS)
    one.load_state_dict(layer.state_dict())
    for b in range(B):
        said = iter(only_what_counts(one, x[b], MASK[b]))
        now = np.zeros(4)
        for t in range(T):
            now = next(said) if MASK[b, t] else now
            np.testing.assert_allclose(y[b, t], now, rtol=1e-12)


def test_two_directions_say_zero(x):
    layer = LSTM(I, 4, bidirectional=True, seed=1, **KEYWORDS)
    y = Sequential([Masking(-1.0), layer])(x)
    for b in range(B):
        np.testing.assert_allclose(
            y[b, MASK[b]], only_what_counts(layer, x[b], MASK[b]), rtol=1e-12
        )
        assert not y[b, ~MASK[b]].any()


@pytest.mark.parametrize("bidirectional", [True, False])
def test_the_last_state_is_that_of_the_last_step_that_counts(x, bidirectional):
    layer = LSTM(I, 4, bidirectional=bidirectional, seed=1, **KEYWORDS)
    y = Sequential([Masking(-1.0), layer, LastState()])(x)
    for b in range(B):
        h = (
            layer(x[b][MASK[b]][None])[1][0]
            if MASK[b].any()
            else np.zeros((1 + bidirectional, 1, 4))
        )
        np.testing.assert_allclose(y[b], np.concatenate(tuple(h[:, 0])), rtol=1e-12)


def models():
    return {
        "sequences": Sequential(
            [
                Masking(-1.0),
                Dropout(0.2),
                LSTM(I, 4, seed=1, **KEYWORDS),
                LSTM(4, 3, bidirectional=True, seed=2, **KEYWORDS),
                MergeDirections("mul"),
                Dense(3, 2, dtype="float64", seed=3),
            ]
        ),
        "last": Sequential(
            [
                Masking(-1.0),
                LSTM(I, 4, 2, seed=1, **KEYWORDS),
                Reverse(batch_first=True),
                LSTM(4, 3, seed=2, **KEYWORDS),
                LastState(),
                Dense(3, 2, dtype="float64", seed=3),
            ]
        ),
        "flat": Sequential(
            [
                Masking(-1.0),
                LSTM(I, 4, seed=1, **KEYWORDS),
                ZeroMasked(),
                Flatten(),
                Dense(24, 1, dtype="float64"),
            ]
        ),
    }


@pytest.mark.parametrize("name", ["sequences", "last", "flat"])
def test_gradients_and_files(x, rng, name, tmp_path):
    model = models()[name]

    class Fixed(Sequential):
        """The same mask, however x is changed by the differences."""

        def forward(self, x, rng=None):
            return super().forward(np.where(MASK[..., None], x, -1.0), rng)

    fixed = Fixed(model.modules)
    y, tape = fixed.forward(x, rng=np.random.default_rng(5))
    dx, _ = fixed.backward(tape, np.ones_like(y))
    assert not dx[~MASK].any()
    check_gradients(fixed, x, rng)
    save(tmp_path / "model.safetensors", model)
    again = load(tmp_path / "model.safetensors")
    assert again.config == model.config
    np.testing.assert_array_equal(again(x), model(x))
    np.testing.assert_allclose(model.predict(x, batch_size=2), model(x), rtol=1e-12)


@pytest.mark.parametrize("row", range(B))
def test_without_a_batch(x, rng, row):
    model = models()["last"]
    want = model(x)[row]
    np.testing.assert_allclose(model(x[row]), want, rtol=1e-12)
    y, tape = model.forward(x[row])
    dx, grads = model.backward(tape, np.ones_like(y))
    y, tape = model.forward(x[row][None])
    dx_batched, grads_batched = model.backward(tape, np.ones_like(y))
    np.testing.assert_allclose(dx, dx_batched[0], atol=1e-12)
    np.testing.assert_allclose(grads.flat, grads_batched.flat, atol=1e-12)


def test_zeros_in_place_of_the_last_output(x):
    layer = LSTM(I, 4, seed=1, **KEYWORDS)
    said = Sequential([Masking(-1.0), layer])(x)
    y = Sequential([Masking(-1.0), layer, Dropout(0.5), ZeroMasked()])(x)
    np.testing.assert_array_equal(y, said * MASK[..., None])
    assert ZeroMasked()(x) is x
    np.testing.assert_array_equal(Sequential([layer, ZeroMasked()])(x), layer(x)[0])
    with pytest.raises(ValueError, match="mask must have shape"):
        ZeroMasked()(x, mask=MASK[:2])


def test_masking_by_itself(x, rng):
    masking = Masking(-1.0)
    y, counts = masking.forward(x)
    np.testing.assert_array_equal(counts[..., 0], MASK)
    assert not y[~MASK].any()
    np.testing.assert_array_equal(y[MASK], x[MASK])
    half = np.full((1, 1, 2), -1.0)
    half[..., 1] = 0.5  # one feature is enough for a step to count
    assert masking.mask_of(half).all()
    assert Masking(0.1).mask_of(np.full((2, 2), 0.1, "f4")).any() == False  # noqa: E712


def test_words_that_do_not_count():
    table = Embedding(9, I, mask_zero=True, dtype="float64", seed=0)
    layer = LSTM(I, 4, seed=1, **KEYWORDS)
    model = Sequential([table, layer, LastState()])
    words = np.array([[3, 8, 0, 0], [0, 3, 0, 8], [3, 8, 1, 1], [0, 0, 0, 0]])
    y = model(words)
    np.testing.assert_allclose(y[0], y[1], rtol=1e-12)
    np.testing.assert_allclose(y[0], layer(table(words[:1, :2]))[0][0, -1], rtol=1e-12)
    assert np.abs(y[0] - y[2]).max() > 0.01
    assert not y[3].any()
    y, tape = model.forward(words)
    _, grads = model.backward(tape, np.ones_like(y))
    assert not grads["0.weight"][0].any()
    without = Sequential([Embedding.from_config({**table.config, "mask_zero": False}), layer])
    assert without(words).any(axis=-1).all()


@pytest.mark.parametrize(
    ("build", "error", "text"),
    [
        (lambda: Masking("0"), TypeError, "mask_value must be a number, got '0'"),
        (lambda: Masking()(np.float64(1)), ValueError, r"x must have shape \(..., F\), got \(\)"),
        (
            lambda: models()["last"](np.zeros((B, T, I)), lengths=[1] * B),
            ValueError,
            "lengths cannot go with a Masking, which knows none",
        ),
        (
            lambda: Sequential([Sequential([Masking()]), LSTM(2, 3)]),
            TypeError,
            r"member 0 \(Sequential\) makes a mask: put its members in the list instead",
        ),
    ],
)
def test_refusals(build, error, text):
    with pytest.raises(error, match=text):
        build()
