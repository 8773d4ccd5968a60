# SPDX-License-Identifier: MIT
"""Activation, Embedding, Flatten, MergeDirections, Reverse: values, gradients, refusals."""

import numpy as np
import pytest
from test_modules import check_gradients

from fastlstm.fit import fit
from fastlstm.io import load, save
from fastlstm.layer import LSTM
from fastlstm.modules import (
    Activation,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    LastState,
    MergeDirections,
    Reverse,
    Sequential,
)

ACTIVATIONS = [
    "softmax",
    "sigmoid",
    "tanh",
    "relu",
    "identity",
    "softplus",
    "softsign",
    ("hard_sigmoid", 1 / 6, 0.5),
    ("leaky_relu", 0.2),
    ("elu", 0.7),
]


@pytest.fixture
def rng():
    return np.random.default_rng(5)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("shape", [(4,), (2, 3, 4)])
def test_activation_gradients(activation, shape, rng):
    check_gradients(Activation(activation), rng.normal(size=shape), rng)


def test_activation_by_hand():
    x = np.log(np.array([[1.0, 2, 5], [4, 4, 8]]))
    np.testing.assert_allclose(
        Activation("softmax")(x), [[0.125, 0.25, 0.625], [0.25, 0.25, 0.5]], rtol=1e-14
    )
    np.testing.assert_array_equal(
        Activation(["hard_sigmoid", 0.25, 0.5])(np.array([-9.0, 1, 9])), [0, 0.75, 1]
    )
    assert Activation("tanh")(np.zeros(3, "f4")).dtype == np.float32


def test_flatten_gradients_and_order(rng):
    x = rng.normal(size=(3, 4, 2))
    y, _, _ = check_gradients(Flatten(), x, rng)
    assert y[1].tolist() == [*x[1, 0], *x[1, 1], *x[1, 2], *x[1, 3]]


@pytest.mark.parametrize("mode", ["sum", "ave", "mul"])
@pytest.mark.parametrize("leading", [(), (3,), (2, 3)])
def test_merge_directions(mode, leading, rng):
    x = rng.normal(size=(*leading, 6))
    y, _, _ = check_gradients(MergeDirections(mode), x, rng)
    a, b = x[..., :3], x[..., 3:]
    np.testing.assert_array_equal(y, {"sum": a + b, "ave": (a + b) / 2, "mul": a * b}[mode])


@pytest.mark.parametrize("batch_first", [True, False])
def test_reverse(batch_first, rng):
    x = rng.normal(size=(3, 4, 2))
    y, _, _ = check_gradients(Reverse(batch_first), x, rng)
    np.testing.assert_array_equal(y, x[:, ::-1] if batch_first else x[::-1])
    np.testing.assert_array_equal(check_gradients(Reverse(batch_first), x[0], rng)[0], x[0, ::-1])


def test_embedding_rows_and_gradients(rng):
    table = Embedding(7, 3, dtype="float64", seed=0)
    x = np.array([[0, 6, 6], [2, 6, 0]])
    weight = table.parameters()["weight"]
    y, tape = table.forward(x)
    np.testing.assert_array_equal(y, weight[x])
    for other in (x.astype("f4"), x.astype("u1"), np.asfortranarray(x)):
        np.testing.assert_array_equal(table(other), y)
    dy = rng.normal(size=y.shape)
    dx, grads = table.backward(tape, dy)
    assert dx is None
    np.testing.assert_allclose(grads["weight"][6], dy[0, 1] + dy[0, 2] + dy[1, 1], rtol=1e-14)
    np.testing.assert_allclose(grads["weight"][0], dy[0, 0] + dy[1, 2], rtol=1e-14)
    np.testing.assert_array_equal(grads["weight"][2], dy[1, 0])
    assert not grads["weight"][[1, 3, 4, 5]].any()


def test_embedding_starts_standard_normal():
    weight = Embedding(200, 100, seed=1).parameters()["weight"]
    assert abs(weight.mean()) < 0.04
    assert abs(weight.std() - 1) < 0.03
    assert (Embedding(4, 2, seed=1).flat == Embedding(4, 2, seed=1).flat).all()


def test_dropout_shared_along_time(rng):
    dropout = Dropout(0.5, shared_axis=1)
    x = np.ones((50, 7, 20))
    y, _ = dropout.forward(x, rng)
    assert (y == y[:, :1]).all()
    assert 0.4 < (y == 0).mean() < 0.6
    assert (y[0] != y[1]).any()
    check_gradients(dropout, rng.normal(size=(3, 4, 2)), rng)
    with pytest.raises(ValueError, match=r"x must have an axis 1, got shape \(3,\)"):
        dropout.forward(np.ones(3), rng)


def models(dtype):
    """Models in which each of these modules stands between others."""
    keywords = {"batch_first": True, "dtype": dtype, "seed": 1}
    return {
        "merged": Sequential(
            [
                LSTM(2, 3, bidirectional=True, **keywords),
                MergeDirections("mul"),
                Reverse(batch_first=True),
                LSTM(3, 4, bidirectional=True, **keywords),
                LastState(),
                MergeDirections("ave"),
                Dense(4, 3, dtype=dtype, seed=2),
                Activation("softmax"),
            ]
        ),
        "flat": Sequential(
            [
                Dropout(0.2, shared_axis=1),
                LSTM(2, 3, **keywords),
                Activation(("leaky_relu", 0.3)),
                Flatten(),
                Dense(15, 2, dtype=dtype, seed=2),
            ]
        ),
        "words": Sequential(
            [Embedding(9, 2, dtype=dtype, seed=0), LSTM(2, 3, **keywords), LastState()]
        ),
    }


@pytest.mark.parametrize("name", ["merged", "flat", "words"])
def test_models_of_them(name, rng, tmp_path):
    """The gradients of the whole, one buffer, and a file that gives the same model back."""
    model = models("float64")[name]
    x = rng.normal(size=(3, 5, 2)) if name != "words" else rng.integers(9, size=(3, 5))
    if name == "words":
        y, tape = model.forward(x)
        dx, grads = model.backward(tape, dy := rng.normal(size=y.shape))
        assert dx is None
        h, table = 1e-6, model.parameters()["0.weight"]
        for k in np.ndindex(table.shape):
            kept = table[k]
            table[k] = kept + h
            up = (model(x) * dy).sum()
            table[k] = kept - h
            slope = (up - (model(x) * dy).sum()) / (2 * h)
            table[k] = kept
            assert abs(slope - grads["0.weight"][k]) < 1e-8
    else:
        check_gradients(model, x, rng)
    save(tmp_path / "model.safetensors", model)
    again = load(tmp_path / "model.safetensors")
    assert again.config == model.config
    np.testing.assert_array_equal(again(x), model(x))
    assert model.predict(x, batch_size=2).shape == model(x).shape


REFUSED = [
    (lambda: Activation("swoosh"), ValueError, "activation must be one of sigmoid, .*'swoosh'"),
    (lambda: Activation("leaky_relu"), ValueError, "must be given as"),
    (lambda: Activation("softmax")(np.float64(1)), ValueError, "an axis for the softmax"),
    (lambda: Activation("tanh")(np.arange(3)), TypeError, "x must be float32 or float64"),
    (lambda: MergeDirections("concat"), ValueError, "mode must be one of 'sum', 'ave', 'mul', got"),
    (lambda: MergeDirections("sum")(np.ones((2, 3))), ValueError, r"\(..., 2\*H\), got \(2, 3\)"),
    (lambda: Reverse()(np.ones(3)), ValueError, r"\(T, B, F\) or \(T, F\), got \(3,\)"),
    (lambda: Flatten()(np.float64(1)), ValueError, "x must have a batch axis"),
    (lambda: Embedding(0, 3), ValueError, "num_embeddings must be at least 1, got 0"),
    (lambda: Embedding(3, 2.0), TypeError, "embedding_dim"),
    (lambda: Embedding(3, 2)([0, 3]), ValueError, "from 0 to num_embeddings - 1 = 2, got 3"),
    (lambda: Embedding(3, 2)([-1]), ValueError, "got -1"),
    (lambda: Embedding(3, 2)([0.5]), ValueError, "whole numbers .* got 0.5"),
    (lambda: Embedding(3, 2)([np.nan]), ValueError, "got nan"),
    (lambda: Embedding(3, 2)(["a"]), TypeError, "x must hold integers, got <U1"),
    (
        lambda: Embedding(3, 2).backward(np.zeros(4, int), np.ones((4, 3), "f4")),
        ValueError,
        r"dy must have shape \(..., embedding_dim\) = \(4, 2\), got \(4, 3\)",
    ),
    (
        lambda: Sequential([Dense(2, 2), Embedding(3, 2)]),
        ValueError,
        r"member 1 \(Embedding\) takes integers: it must be the first member",
    ),
    (
        lambda: Sequential([LSTM(2, 3, batch_first=True), Reverse()]),
        ValueError,
        r"member 1 \(Reverse\) has batch_first=False",
    ),
    (
        lambda: Sequential([LSTM(2, 3), Flatten(), LSTM(3, 3)]),
        ValueError,
        r"member 2 \(LSTM\) needs a sequence, but a Flatten stands before it",
    ),
    (
        lambda: Sequential([Embedding(5, 3), LSTM(4, 3)]),
        ValueError,
        r"member 1 \(LSTM\) takes 4 features, but member 0 \(Embedding\) gives 3",
    ),
    (
        lambda: Sequential([Reverse(), LSTM(2, 3)])(np.ones((3, 2, 2), "f4"), lengths=[1, 2]),
        ValueError,
        "lengths cannot go with a Reverse",
    ),
]


@pytest.mark.parametrize(("build", "error", "text"), REFUSED)
def test_refusals(build, error, text):
    with pytest.raises(error, match=text):
        build()


@pytest.mark.parametrize(
    "module", [Activation("softmax"), Activation("tanh"), Flatten(), MergeDirections("sum")]
)
def test_a_gradient_of_another_shape_is_refused(module):
    y, tape = module.forward(np.ones((2, 3, 4)))
    with pytest.raises(ValueError, match="dy must have shape"):
        module.backward(tape, np.ones((*y.shape, 2)))


def test_a_softmax_twice_is_refused(rng):
    """A classifier that was loaded with its softmax, and the loss that has one itself."""
    model = Sequential([Dense(3, 4), Activation("softmax")])
    x, labels = rng.normal(size=(8, 3)).astype("f4"), np.arange(8) % 4
    with pytest.raises(ValueError, match="takes logits, but the model ends in a softmax"):
        fit(model, x, labels, loss="cross_entropy", epochs=1)
    fit(Sequential(model.modules[:-1]), x, labels, loss="cross_entropy", epochs=1)
