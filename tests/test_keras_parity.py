# SPDX-License-Identifier: MIT
"""Models of the living Keras: what `fastlstm.keras.load` makes of them predicts the same numbers.

All weights are random, so that no convention can hide. Keras' products are float32 on its torch
backend, in float64 models too: hence the tolerance.
"""

import os

import numpy as np
import pytest

os.environ.setdefault("KERAS_BACKEND", "torch")
pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # Keras'
]
keras = pytest.importorskip("keras", minversion="3")
pytest.importorskip("h5py")

import fastlstm as fl  # noqa: E402
import fastlstm.keras  # noqa: E402

B, T, I = 4, 6, 3
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
L = keras.layers


@pytest.fixture(autouse=True)
def double():
    use("float64")
    yield
    use("float32")


def use(dtype):
    """Let the layers that are made from now on have a dtype."""
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)


def sequential(*layers, shape=(T, I)):
    return keras.Sequential([keras.Input(shape), *layers])


def functional(*layers, shape=(T, I), dtype=None):
    x = first = keras.Input(shape, dtype=dtype)
    for layer in layers:
        x = layer(x)
    return keras.Model(first, x)


def randomised(model, seed=0):
    """The model with other weights, biases too."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        if str(variable.dtype).startswith("float"):
            variable.assign(rng.standard_normal(variable.shape))
    return model


def features(name=""):
    shape = (B, I) if name == "head alone" else (B, T, I)
    return np.random.default_rng(1).standard_normal(shape)


def masked():
    """Steps of -1 at the end, at the start, between, and everywhere."""
    x = features()
    for b, row in enumerate(["111100", "001111", "101001", "000000"]):
        x[b, [c == "0" for c in row]] = -1.0
    return x


def words():
    return np.random.default_rng(1).integers(7, size=(B, T))


def both(model, path, x):
    """(Keras' prediction, ours) of the model in a file."""
    randomised(model).save(path)
    loaded = fl.keras.load(path)
    assert type(loaded) is fl.Sequential
    return model.predict(x, verbose=0), loaded.predict(x), loaded


CELLS = {"LSTM": L.LSTM, "GRU": L.GRU, "SimpleRNN": L.SimpleRNN}
OPTIONS = {
    "plain": {},
    "no bias": {"use_bias": False},
    "backwards": {"go_backwards": True},
    "dropout": {"dropout": 0.3},
    "relu": {"activation": "relu"},
    "softplus": {"activation": "softplus"},
    "leaky": {"activation": L.LeakyReLU(negative_slope=0.3)},
}
GATES = {  # of the cells that have them
    "hard sigmoid": {"recurrent_activation": "hard_sigmoid"},
    "hard sigmoid, elu": {"recurrent_activation": "hard_sigmoid", "activation": "elu"},
    "swapped": {"recurrent_activation": "tanh", "activation": "sigmoid"},
}
RESETS = {  # of the GRU
    "reset before": {"reset_after": False},
    "reset before, no bias": {"reset_after": False, "use_bias": False},
}


def options_of(name):
    gates = {} if name == "SimpleRNN" else GATES
    return OPTIONS | gates | (RESETS if name == "GRU" else {})


MODELS = {
    **{
        f"{name}, {label}, {'all' if steps else 'last'}": lambda cell=cell, o=o, s=steps: (
            sequential(cell(5, return_sequences=s, **o))
        )
        for name, cell in CELLS.items()
        for label, o in options_of(name).items()
        for steps in (True, False)
    },
    **{
        f"{name}, {merge}, {'all' if steps else 'last'}": (
            lambda cell=cell, m=merge, s=steps: sequential(
                L.Bidirectional(cell(5, return_sequences=s), merge_mode=m)
            )
        )
        for name, cell in CELLS.items()
        for merge in ("concat", "sum", "mul", "ave")
        for steps in (True, False)
    },
    **{
        f"dense {name}": lambda name=name: sequential(
            L.LSTM(4), L.Dense(3, activation=name), L.Dense(2, use_bias=False)
        )
        for name in (None, "tanh", "softmax", "hard_sigmoid", "leaky_relu", "elu", "softplus")
    },
    **{
        f"activation {k}": lambda layer=layer: sequential(L.LSTM(4, return_sequences=True), layer())
        for k, layer in enumerate(
            [
                lambda: L.Activation("softsign"),
                lambda: L.Activation("linear"),
                L.ReLU,
                lambda: L.ReLU(negative_slope=0.2),
                L.LeakyReLU,
                lambda: L.ELU(alpha=0.7),
                L.Softmax,
            ]
        )
    },
    "stack": lambda: sequential(
        L.LSTM(4, return_sequences=True, name="b"),
        L.Dropout(0.2),
        L.Bidirectional(L.LSTM(3, return_sequences=True)),
        L.TimeDistributed(L.Dense(5, activation="relu")),
        L.LSTM(2, name="a"),
        L.Dense(3, activation="softmax"),
    ),
    "functional": lambda: functional(
        L.LSTM(4, return_sequences=True), L.LSTM(3, go_backwards=True), L.Dense(2)
    ),
    "flatten": lambda: sequential(L.LSTM(4, return_sequences=True), L.Flatten(), L.Dense(3)),
    "noise": lambda: sequential(
        L.Dropout(0.2, noise_shape=(None, 1, None)), L.LSTM(4, unit_forget_bias=False)
    ),
    "head alone": lambda: sequential(L.Dense(3, activation="sigmoid"), shape=(I,)),
    "regularised": lambda: sequential(
        L.LSTM(4, kernel_regularizer="l2", bias_constraint="non_neg", recurrent_initializer="ones")
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_prediction(name, tmp_path):
    want, got, _ = both(MODELS[name](), tmp_path / "model.keras", features(name))
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, want, **CLOSE)


@pytest.mark.parametrize("name", MODELS)
def test_keras_reads_what_is_saved(name, tmp_path):
    _, ours, loaded = both(MODELS[name](), tmp_path / "theirs.keras", features(name))
    fl.keras.save(loaded, tmp_path / "ours.keras")
    again = keras.saving.load_model(tmp_path / "ours.keras")
    np.testing.assert_allclose(again.predict(features(name), verbose=0), ours, **CLOSE)
    assert fl.keras.load(tmp_path / "ours.keras").config == loaded.config


MASKED = {
    **{
        f"{name}, {label}, {'all' if steps else 'last'}": (
            lambda cell=cell, o=o, s=steps: [cell(5, return_sequences=s, **o)]
        )
        for name, cell in CELLS.items()
        for label, o in {"plain": {}, "backwards": {"go_backwards": True}}.items()
        for steps in (True, False)
        if not (o and steps)
    },
    **{
        f"{name}, two directions, {merge}, {'all' if steps else 'last'}": (
            lambda cell=cell, m=merge, s=steps: [
                L.Bidirectional(cell(5, return_sequences=s), merge_mode=m)
            ]
        )
        for name, cell in CELLS.items()
        for merge in ("concat", "mul")
        for steps in (True, False)
    },
    "stack": lambda: [
        L.Dropout(0.1),
        L.LSTM(4, return_sequences=True),
        L.TimeDistributed(L.Dense(3, activation="tanh")),
        L.Bidirectional(L.LSTM(4, return_sequences=True)),
        L.Activation("softmax"),
        L.LSTM(2, go_backwards=True),
        L.Dense(3),
    ],
    "flatten": lambda: [L.LSTM(4, return_sequences=True), L.Flatten(), L.Dense(3), L.Softmax()],
    "softmax behind": lambda: [L.LSTM(4), L.Softmax()],
    "zeros": lambda: [L.GRU(4, return_sequences=True, zero_output_for_mask=True), L.LSTM(3)],
}


@pytest.mark.filterwarnings("ignore:Layer 'flatten:UserWarning")  # Keras: its mask ends there
@pytest.mark.parametrize("build", [sequential, functional])
@pytest.mark.parametrize("name", MASKED)
def test_masks(name, build, tmp_path):
    model = build(L.Masking(-1.0), *MASKED[name]())
    want, got, loaded = both(model, tmp_path / "model.keras", masked())
    np.testing.assert_allclose(got, want, **CLOSE)
    fl.keras.save(loaded, tmp_path / "ours.keras")
    again = keras.saving.load_model(tmp_path / "ours.keras")
    np.testing.assert_allclose(again.predict(masked(), verbose=0), got, **CLOSE)


@pytest.mark.parametrize("build", [sequential, functional])
def test_words_that_are_masked(build, tmp_path):
    layers = [L.Embedding(7, 4, mask_zero=True), L.LSTM(3, return_sequences=True), L.LSTM(2)]
    x = words()
    x[0, 3:], x[1, 2], x[2] = 0, 0, 0
    want, got, _ = both(build(*layers, shape=(T,)), tmp_path / "model.keras", x)
    np.testing.assert_allclose(got, want, **CLOSE)


@pytest.mark.parametrize("build", [sequential, functional])
def test_embedding(build, tmp_path):
    layers = [L.Embedding(7, 4), L.LSTM(3), L.Dense(2)]
    want, got, _ = both(build(*layers, shape=(T,)), tmp_path / "model.keras", words())
    np.testing.assert_allclose(got, want, **CLOSE)


def test_float32_and_the_weights_alone(tmp_path):
    use("float32")
    model = randomised(sequential(L.LSTM(5, return_sequences=True), L.LSTM(4), L.Dense(2)))
    x = features().astype("f4")
    want = model.predict(x, verbose=0)
    model.save_weights(tmp_path / "model.weights.h5")
    for config in (model.to_json(), model.get_config()):
        loaded = fl.keras.load(tmp_path / "model.weights.h5", config=config)
        assert loaded.dtype == np.float32
        np.testing.assert_allclose(loaded.predict(x), want, **CLOSE)
    for config in (functional(L.LSTM(2)).get_config(), functional(L.LSTM(2)).to_json()):
        randomised(functional(L.LSTM(2))).save_weights(tmp_path / "f.weights.h5")
        fl.keras.load(tmp_path / "f.weights.h5", config=config)


def test_a_loaded_model_is_trained_and_saved(tmp_path):
    """Training here, then back to Keras: the same predictions there."""
    _, before, loaded = both(
        sequential(L.Bidirectional(L.LSTM(5), merge_mode="ave"), L.Dense(1)),
        tmp_path / "model.keras",
        features(),
    )
    fl.fit(loaded, features(), np.ones((B, 1)), epochs=3, seed=0)
    after = loaded.predict(features())
    assert np.abs(after - before).max() > 1e-4
    fl.keras.save(loaded, tmp_path / "trained.keras")
    again = keras.saving.load_model(tmp_path / "trained.keras")
    np.testing.assert_allclose(again.predict(features(), verbose=0), after, **CLOSE)
    fl.save(tmp_path / "trained.safetensors", loaded)
    np.testing.assert_array_equal(
        fl.load(tmp_path / "trained.safetensors").predict(features()), after
    )


def test_recurrent_dropout_is_told(tmp_path):
    model = sequential(L.LSTM(5, recurrent_dropout=0.2))
    with pytest.warns(UserWarning, match="recurrent_dropout=0.2 is not applied"):
        want, got, _ = both(model, tmp_path / "model.keras", features())
    np.testing.assert_allclose(got, want, **CLOSE)


@keras.saving.register_keras_serializable(package="custom")
class Own(L.Dense):
    """A layer of the user's own."""


def shared():
    x = first = keras.Input((T, I))
    dense = L.Dense(3)
    return keras.Model(first, L.LSTM(2)(dense(dense(x))))


def branched():
    x = keras.Input((T, I))
    return keras.Model(x, L.Add()([L.LSTM(2)(x), L.LSTM(2)(x)]))


def two_outputs():
    x = keras.Input((T, I))
    y = L.LSTM(2)(x)
    return keras.Model(x, [y, L.Dense(3)(y)])


UNSUPPORTED = [
    (
        lambda: sequential(L.Masking(), L.LSTM(2, zero_output_for_mask=True)),
        "has zero_output_for_mask=True",
    ),
    (
        lambda: sequential(L.Masking(), L.LSTM(2, go_backwards=True, return_sequences=True)),
        "goes backwards under a mask and returns sequences",
    ),
    (lambda: sequential(L.Masking(), L.Softmax()), r"\(Softmax\) under a mask is not supported"),
    (lambda: sequential(L.Conv1D(2, 3)), r"layer 'conv1d\w*' \(Conv1D\) is not supported; supp"),
    (lambda: sequential(L.Lambda(lambda x: x)), r"\(Lambda\) is not supported"),
    (lambda: sequential(Own(3)), r"\(Own\) is not one of Keras' own: nothing is looked up"),
    (lambda: sequential(L.LSTM(2), sequential(L.Dense(2), shape=(2,))), r"\(Sequential\) is not"),
    (lambda: sequential(L.LSTM(2, activation="gelu")), "has activation='gelu', which is not supp"),
    (lambda: sequential(L.LSTM(2, activation="softmax")), "has activation='softmax'"),
    (
        lambda: sequential(L.LSTM(2, activation=lambda x: x)),
        "has activation=.*not supported",
    ),
    (lambda: sequential(L.ReLU(max_value=6)), "has max_value=6"),
    (lambda: sequential(L.Softmax(axis=1)), "has axis=1"),
    (lambda: sequential(L.Dropout(0.1, noise_shape=(1, 1, None))), "has noise_shape="),
    (lambda: sequential(L.TimeDistributed(L.LSTM(2)), shape=(2, T, I)), r"\(LSTM\) in it, suppo"),
    (lambda: sequential(L.Bidirectional(L.RNN(L.LSTMCell(2)))), r"a layer 'forward_rnn' \(RNN\)"),
    (
        lambda: sequential(L.Bidirectional(L.LSTM(2), backward_layer=L.LSTM(3, go_backwards=True))),
        "a backward_layer with other options",
    ),
    (
        lambda: sequential(L.Bidirectional(L.LSTM(2, go_backwards=True), backward_layer=L.LSTM(2))),
        "must go forwards with layer",
    ),
    (lambda: sequential(L.LSTM(2, dtype="float32"), L.Dense(2)), "is float64, a layer before it"),
    (lambda: sequential(L.Dense(2, dtype="mixed_float16")), "has dtype='mixed_float16'"),
    (shared, "must be used once"),
    (branched, r"\(Add\) is not supported"),
    (two_outputs, "the model has output_layers"),
]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("build", "text"), UNSUPPORTED)
def test_unsupported_is_one_error_that_names_it(build, text, tmp_path):
    build().save(tmp_path / "model.keras")
    with pytest.raises(fl.keras.FormatError, match=text) as caught:
        fl.keras.load(tmp_path / "model.keras")
    assert str(caught.value).startswith(str(tmp_path / "model.keras"))


def test_a_mask_that_is_withheld_is_refused(tmp_path):
    """The graph of a functional model says which layers are given the mask."""
    model = functional(L.Masking(), L.LSTM(2))
    model.save_weights(tmp_path / "model.weights.h5")
    config = model.get_config()
    config["layers"][-1]["inbound_nodes"][0]["kwargs"]["mask"] = None
    with pytest.raises(fl.keras.FormatError, match="is given a mask otherwise than the layers"):
        fl.keras.load(tmp_path / "model.weights.h5", config=config)


def test_stateful_is_refused(tmp_path):
    model = keras.Sequential([keras.Input(batch_shape=(B, T, I)), L.LSTM(2, stateful=True)])
    model.save(tmp_path / "model.keras")
    with pytest.raises(fl.keras.FormatError, match="has stateful=True, which is not supported"):
        fl.keras.load(tmp_path / "model.keras")
