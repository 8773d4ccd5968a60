# SPDX-License-Identifier: MIT
"""RTNeural's JSON: what a file means, there and back, what is refused."""

import json
import tracemalloc

import numpy as np
import pytest
from framework_cells import rtneural as lstm_step
from hypothesis import given, settings
from hypothesis import strategies as st
from test_weights_siblings import gru_rtneural as gru_step

import fastlstm as fl
from fastlstm import rtneural
from fastlstm.modules import MODULES

FormatError = rtneural.FormatError
B, T, I, H = 3, 6, 4, 5  # as in framework_cells
KINDS = [kind for kind in ("lstm", "gru") if kind.upper() in MODULES]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.json"


def cell(kind="lstm", activation="", seed=0, **changes):
    """A layer with random weights, as RTNeural's Python script writes it."""
    rng, n = np.random.default_rng(seed), {"lstm": 4, "gru": 3}[kind]
    bias = (4 * H,) if kind == "lstm" else (2, 3 * H)
    weights = [rng.standard_normal(s).tolist() for s in [(I, n * H), (H, n * H), bias]]
    entry = {"type": kind, "activation": activation, "shape": [None, None, H], "weights": weights}
    return {**entry, **changes}


def dense(size=H, out=2, activation="", kind="dense", seed=1, **changes):
    rng = np.random.default_rng(seed)
    weights = [rng.standard_normal(s).tolist() for s in [(size, out), (out,)]]
    entry = {"type": kind, "activation": activation, "shape": [None, None, out], "weights": weights}
    return {**entry, **changes}


def write(path, *layers, in_shape=(None, None, I)):
    path.write_text(json.dumps({"in_shape": list(in_shape), "layers": list(layers)}))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("activation", ["", "tanh", "relu", "sigmoid", "softmax", "elu"])
def test_it_computes_what_rtneural_computes(path, kind, activation):
    write(path, cell(kind, "tanh"), dense(activation=activation, kind="time-distributed-dense"))
    x = np.random.default_rng(2).standard_normal((B, T, I))
    got = rtneural.load(path, "float64").predict(x)
    recurrent, head = json.loads(path.read_text())["layers"]
    h, c = np.zeros((B, H)), np.zeros((B, H))
    W, b = map(np.array, head["weights"])
    for t in range(T):
        if kind == "lstm":
            h, c = lstm_step(recurrent, x[:, t], h, c)
        else:
            h = gru_step(recurrent, x[:, t], h)
        a = h @ W + b
        want = {
            "": a,
            "tanh": np.tanh(a),
            "relu": np.maximum(a, 0),
            "sigmoid": 1 / (1 + np.exp(-a)),
            "softmax": np.exp(a) / np.exp(a).sum(axis=1, keepdims=True),
            "elu": np.where(a < 0, np.expm1(a), a),
        }[activation]
        np.testing.assert_allclose(got[:, t], want, rtol=1e-11, atol=1e-13)


@given(
    st.integers(1, 4), st.integers(1, 5), st.integers(1, 3), st.booleans(),
    st.sampled_from(["float32", "float64"]), st.sampled_from([None, "tanh", "relu", "sigmoid"]),
    st.sampled_from(KINDS),
)  # fmt: skip
@settings(max_examples=30, deadline=None, database=None)
def test_there_and_back_is_exact(tmp_path_factory, i, h, layers, bias, dtype, activation, kind):
    path = tmp_path_factory.getbasetemp() / "any.json"
    make = MODULES[kind.upper()]
    first = make(i, h, layers, bias=bias, batch_first=True, dropout=0.1, dtype=dtype, seed=h)
    model = fl.Sequential([first, fl.Dropout(0.1), fl.Dense(h, 2, activation=activation, bias=bias,
                                                            dtype=dtype, seed=1)])  # fmt: skip
    rtneural.save(model, path)
    again = rtneural.load(path, dtype)
    x = np.random.default_rng(0).standard_normal((2, 3, i)).astype(dtype)
    np.testing.assert_allclose(again.predict(x), model.predict(x), rtol=1e-4, atol=1e-5)
    for k in range(layers):
        ours, theirs = first.cell_weights()[k], again.modules[k].cell_weights()[0]
        for name, array in ours.items():
            if array is not None:
                assert np.array_equal(theirs[name], array)


def test_the_last_state_is_the_last_step(path):
    model = fl.Sequential([fl.LSTM(I, H, batch_first=True, seed=0), fl.LastState(),
                           fl.Dense(H, 2, seed=1), fl.Activation(("elu", 1.0))])  # fmt: skip
    rtneural.save(model, path)
    x = np.random.default_rng(0).standard_normal((B, T, I)).astype("f4")
    steps = rtneural.load(path).predict(x)
    np.testing.assert_allclose(steps[:, -1], model.predict(x), rtol=1e-6)


def big(value):
    return [[value] * (4 * H)] * I


FAULTS = [
    ([cell(type="conv1d")], "layer 0 ('conv1d') is not supported; supported are dense,"),
    ([cell(type=["lstm"])], "layer 0 (['lstm']) is not supported"),
    ([3], "layer 0 (None) is not supported"),
    ([cell(weights=3)], "layer 0 ('lstm') has no list of weights"),
    ([cell(weights=[])], "the weights of layer 0 ('lstm') do not fit it: rtneural array"),
    ([cell(weights=[[[1.0]], [[1.0]], [1.0]])], "do not fit it"),
    ([cell(weights=[big("x"), *cell()["weights"][1:]])], "do not fit it: rtneural weights.0"),
    ([cell(weights=[big(1e999), *cell()["weights"][1:]])], "is no valid JSON"),
    ([cell(activation="relu")], "layer 0 ('lstm') has activation 'relu', supported is tanh"),
    ([dense(activation="gelu")], "layer 0 ('dense') has activation 'gelu', supported are tanh,"),
    ([dense(activation={})], "has activation {}"),
    (
        [dense(weights=[[[1.0]]])],
        "weights of layer 0 ('dense') must be (in, out) and (out,)",
    ),
    ([dense(weights=[[[1.0], [1.0, 2.0]], [1.0]])], "must be (in, out) and (out,)"),
    ([dense(weights=[[["a"]], [1.0]])], "must be (in, out) and (out,)"),
    ([dense(weights=[[[1.0]], [1.0, 2.0]])], "kernel (1, 1), bias (2,)"),
    ([dense(I), dense(3)], "its model does not work: member 1 (Dense) takes 3 features"),
    ([dense(3)], "in_shape is [None, None, 4], but the first layer takes 3 features"),
    ([], "it has no list of layers"),
]


@pytest.mark.parametrize(("layers", "text"), FAULTS)
def test_faults(path, layers, text):
    write(path, *layers)
    with pytest.raises(FormatError) as caught:
        rtneural.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert text in str(caught.value)


def test_damaged_files(path):
    write(path, cell(), dense())
    whole = path.read_bytes()
    for size in range(0, len(whole), len(whole) // 50):
        path.write_bytes(whole[:size])
        with pytest.raises(FormatError, match="the file is no valid JSON"):
            rtneural.load(path)
    for text in (b"\xff\xfe", b"[]", b"null", b"[" * 10**5, b'{"layers":{}}', b'{"a":1,"a":2}'):
        path.write_bytes(text)
        with pytest.raises(FormatError):
            rtneural.load(path)
    path.write_bytes(whole.replace(b"0.", b"1e999, 0.", 1))
    with pytest.raises(FormatError):
        rtneural.load(path)


def test_a_number_that_overflows(path):
    write(path, dense(weights=[[[12345.0]], [0.0]]), in_shape=(None, None, 1))
    path.write_text(path.read_text().replace("12345.0", "1e999"))
    with pytest.raises(FormatError, match="has a number that is too large"):
        rtneural.load(path)


def test_a_file_that_is_too_long(path):
    with open(path, "wb") as file:
        file.truncate(10**9)
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match="longer than 67108864 bytes"):
            rtneural.load(path)
        assert tracemalloc.get_traced_memory()[1] < 1.1 * (64 << 20)
    finally:
        tracemalloc.stop()


NOT_RTNEURAL = [
    (fl.LSTM(3, 4, bidirectional=True), "RTNeural's lstm has no bidirectional=True"),
    (fl.LSTM(3, 4, proj_size=2), "RTNeural's lstm has no proj_size=2"),
    (fl.Embedding(3, 4), "RTNeural has no Embedding"),
    (fl.Activation("softplus"), "RTNeural has no activation 'softplus'"),
    (fl.Activation("tanh"), "needs a layer that says how many inputs"),
    (fl.Sequential([fl.LSTM(3, 4), fl.Flatten()]), "RTNeural has no Flatten"),
]


@pytest.mark.parametrize(("model", "text"), NOT_RTNEURAL)
def test_what_rtneural_has_not_is_refused(path, model, text):
    with pytest.raises(ValueError, match=text):
        rtneural.save(model, path)
    assert not path.exists()


def test_no_model(path):
    with pytest.raises(TypeError, match=r"model must be one of LSTM, .* got dict"):
        rtneural.save({}, path)
    model = fl.Dense(2, 2)
    model.flat[0] = np.nan
    with pytest.raises(ValueError, match="not JSON compliant"):
        rtneural.save(model, path)
