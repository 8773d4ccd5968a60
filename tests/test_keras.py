# SPDX-License-Identifier: MIT
"""Keras' files without Keras: its own tests' numbers, what is written, what is refused.

The same models as the living Keras computes them: test_keras_parity.py; hostile files:
test_keras_file.py.
"""

import numpy as np
import pytest

pytest.importorskip("h5py")

import fastlstm as fl
import fastlstm.keras
from fastlstm.keras_file import write_archive

FormatError = fl.keras.FormatError


def layer(kind, name=None, **options):
    """A layer as a config has it."""
    options = {"name": name or kind.lower(), "dtype": "float32", **options}
    return {"module": "keras.layers", "class_name": kind, "config": options}


def config(*layers):
    return {"class_name": "Sequential", "config": {"name": "model", "layers": list(layers)}}


def constant_cell(units, size, kind="LSTM", *, use_bias=True, unit_forget_bias=True,
                  reset_after=True):  # fmt: skip
    """kernel, recurrent_kernel, bias as Keras' tests initialise them: 0.01, 0.02, 0.03."""
    n = {"LSTM": 4, "GRU": 3, "SimpleRNN": 1}[kind] * units
    arrays = [np.full((size, n), 0.01, "f4"), np.full((units, n), 0.02, "f4")]
    if not use_bias:
        return arrays
    b = np.full((2, n) if kind == "GRU" and reset_after else n, 0.03, "f4")
    if kind == "LSTM" and unit_forget_bias:
        b[units : 2 * units] = 1
    return [*arrays, b]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.keras"


def loaded(path, *layers, **arrays):
    write_archive(path, config(*layers), {f"layers/{k}": v for k, v in arrays.items()}, "3.1.0")
    return fl.keras.load(path)


# -- the numbers of lstm_test.py, gru_test.py and simple_rnn_test.py in keras/src/layers/rnn ----


def sequence(*shape):
    return np.arange(np.prod(shape)).reshape(shape).astype("f4")


def constant_model(path, kind, units, size, before=(), **options):
    """One recurrent layer with constant weights."""
    names = ("use_bias", "unit_forget_bias", "reset_after")
    weights = {name: options[name] for name in names if name in options}
    group = {"LSTM": "lstm", "GRU": "gru", "SimpleRNN": "simple_rnn"}[kind]
    cell = {f"{group}/cell": constant_cell(units, size, kind, **weights)}
    return loaded(path, *before, layer(kind, units=units, **options), **cell)


NUMBERS = [  # kind, options, shape of the sequence, units, the rows
    ("LSTM", {}, (3, 6, 4), 3, [0.6288687, 0.86899155, 0.9460773]),
    ("LSTM", {"go_backwards": True}, (3, 6, 4), 3, [0.35622165, 0.74789524, 0.8872726]),
    ("LSTM", {"unroll": True}, (3, 6, 4), 3, [0.6288687, 0.86899155, 0.9460773]),
    ("LSTM", {"unit_forget_bias": False}, (3, 6, 4), 3, [0.57019705, 0.8661914, 0.9459622]),
    ("LSTM", {"use_bias": False}, (3, 6, 4), 3, [0.54986924, 0.86226785, 0.9443936]),
    ("GRU", {}, (3, 6, 4), 3, [0.5217289, 0.6371659, 0.39384964]),
    ("GRU", {"go_backwards": True}, (3, 6, 4), 3, [0.24406259, 0.611516, 0.3928808]),
    ("GRU", {"reset_after": False}, (3, 6, 4), 3, [0.51447755, 0.6426879, 0.40208298]),
    ("GRU", {"use_bias": False}, (3, 6, 4), 3, [0.49988455, 0.64701194, 0.4103359]),
    ("SimpleRNN", {}, (2, 3, 4), 4, [0.405432, 0.73605347]),
    ("SimpleRNN", {"go_backwards": True}, (2, 3, 4), 4, [0.11144729, 0.5528889]),
]


@pytest.mark.parametrize(("kind", "options", "shape", "units", "rows"), NUMBERS)
def test_numbers_of_keras(path, kind, options, shape, units, rows):
    model = constant_model(path, kind, units, shape[-1], **options)
    want = np.repeat(np.array(rows)[:, None], units, axis=1)
    np.testing.assert_allclose(model.predict(sequence(*shape)), want, atol=1e-5, rtol=1e-5)


STARTED = [  # kind, backwards, units, what comes of the initial state 0, 1, 2, ...
    ("LSTM", False, 2, [[0.20574439, 0.3558822], [0.64930826, 0.66276]]),
    ("LSTM", True, 2, [[0.13281618, 0.2790356], [0.5839337, 0.5992567]]),
    ("GRU", False, 2, [[0.23774096, 0.33508456], [0.83659905, 1.0227708]]),
    ("GRU", True, 2, [[0.13486053, 0.23261218], [0.78257304, 0.9691353]]),
    ("SimpleRNN", False, 4, [[0.33621645] * 4, [0.6262637] * 4]),
    ("SimpleRNN", True, 4, [[0.07344437] * 4, [0.43043602] * 4]),
]


@pytest.mark.parametrize(("kind", "backwards", "units", "want"), STARTED)
def test_numbers_of_keras_with_an_initial_state(path, kind, backwards, units, want):
    model = constant_model(path, kind, units, 3, go_backwards=backwards)
    h = sequence(1, 2, units)
    y = model(sequence(2, 4, 3), state=(h, h) if kind == "LSTM" else h)
    np.testing.assert_allclose(y, want, atol=1e-5, rtol=1e-5)


MASKED = [  # kind, options, units, mask, what comes of it
    ("LSTM", {}, 2, ["1110", "1100"], [[0.11755939] * 2, [0.28556206] * 2]),
    ("LSTM", {"go_backwards": True}, 2, ["0111", "0011"], [[0.15341201] * 2, [0.3844719] * 2]),
    ("GRU", {}, 2, ["1101", "1001"], [[0.19393763] * 2, [0.30818558] * 2]),
    ("SimpleRNN", {}, 4, ["1101", "1001"], [[0.32951632] * 4, [0.61799484] * 4]),
    (
        "LSTM",
        {"return_sequences": True},
        2,
        ["1110", "1100"],
        [
            [[0.0158891] * 2, [0.05552048] * 2, [0.11755939] * 2, [0.11755939] * 2],
            [[0.14185596] * 2, [0.28556206] * 2, [0.28556206] * 2, [0.28556206] * 2],
        ],
    ),
    (
        "LSTM",
        {"return_sequences": True, "zero_output_for_mask": True},
        2,
        ["1110", "1100"],
        [
            [[0.0158891] * 2, [0.05552048] * 2, [0.11755939] * 2, [0.0] * 2],
            [[0.14185596] * 2, [0.28556206] * 2, [0.0] * 2, [0.0] * 2],
        ],
    ),
    (
        "SimpleRNN",
        {"return_sequences": True},
        2,
        ["1101", "1001"],
        [
            [[0.0599281] * 2, [0.15122814] * 2, [0.15122814] * 2, [0.32394567] * 2],
            [[0.3969304] * 2, [0.3969304] * 2, [0.3969304] * 2, [0.608085] * 2],
        ],
    ),
]


@pytest.mark.parametrize(("kind", "options", "units", "mask", "want"), MASKED)
def test_numbers_of_keras_under_a_mask(path, kind, options, units, mask, want):
    before = [layer("Masking", mask_value=-1.0)]
    model = constant_model(path, kind, units, 3, before, **options)
    x = sequence(2, 4, 3)
    x[np.array([[c == "0" for c in row] for row in mask])] = -1.0
    np.testing.assert_allclose(model.predict(x), want, atol=1e-5, rtol=1e-5)


# -- what is written and refused ---------------------------------------------------------------


def model(dtype="float32"):
    return fl.Sequential(
        [
            fl.LSTM(3, 5, 2, batch_first=True, bidirectional=True, dropout=0.1, dtype=dtype),
            fl.Dropout(0.2, shared_axis=1),
            fl.Reverse(batch_first=True),
            fl.LSTM(10, 4, batch_first=True, dtype=dtype, seed=1),
            fl.LastState(),
            fl.Dense(4, 2, activation="tanh", dtype=dtype, seed=2),
            fl.Activation(("leaky_relu", 0.3)),
        ]
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_there_and_back(path, dtype):
    ours, x = model(dtype), np.random.default_rng(0).standard_normal((4, 6, 3)).astype(dtype)
    fl.keras.save(ours, path)
    again = fl.keras.load(path)
    np.testing.assert_allclose(again.predict(x), ours.predict(x), rtol=1e-5, atol=1e-7)
    assert again.flat.dtype == dtype
    assert np.array_equal(np.sort(again.flat), np.sort(ours.flat))


def test_one_layer_and_words(path):
    for ours, x in (
        (fl.LSTM(3, 4, batch_first=True, seed=0), np.ones((2, 5, 3), "f4")),
        (fl.LSTM(3, [4, 2], batch_first=True, seed=0), np.ones((2, 5, 3), "f4")),
        (fl.Embedding(9, 2, seed=0), np.array([[0, 8], [3, 3]])),
        (fl.Dense(3, 4, seed=0), np.ones((2, 3), "f4")),
    ):
        fl.keras.save(ours, path)
        want = ours(x)[0] if isinstance(ours, fl.LSTM) else ours(x)
        np.testing.assert_allclose(fl.keras.load(path).predict(x), want, rtol=1e-5)


NOT_KERAS = [
    (fl.LSTM(3, 4), ValueError, "batch_first=False: build it with batch_first=True"),
    (fl.LSTM(3, 4, batch_first=True, proj_size=2), ValueError, "Keras' LSTM has no proj_size"),
    (fl.LSTM(3, 4, batch_first=True, learn_state=True), ValueError, "LSTM has no learn_state"),
    (
        fl.LSTM(3, 4, batch_first=True, spec=fl.Spec(peepholes="i", coupled=True)),
        ValueError,
        "Keras' LSTM has no peepholes, coupled",
    ),
    (
        fl.LSTM(3, 4, batch_first=True, spec=fl.Spec(candidate="relu")),
        ValueError,
        r"one activation for candidate and output, not \('relu', 'tanh'\)",
    ),
    (
        fl.Sequential([fl.Masking(), fl.Reverse(True), fl.LSTM(3, 4, batch_first=True)]),
        ValueError,
        "reverses the outputs of go_backwards, but not their mask",
    ),
    (fl.Reverse(batch_first=True), ValueError, "Keras has no Reverse but as go_backwards"),
    (fl.MergeDirections("sum"), ValueError, "Keras has no MergeDirections but as"),
    (
        fl.Sequential([fl.LSTM(3, 4, batch_first=True, bidirectional=True), fl.ZeroMasked()]),
        ValueError,
        "ZeroMasked behind the sequences of one direction alone",
    ),
    (fl.Activation(("hard_sigmoid", 0.2, 0.5)), ValueError, "Keras has no activation"),
    (
        fl.Sequential([fl.Reverse(True), fl.LSTM(3, 4, 2, batch_first=True)]),
        ValueError,
        "no Reverse before several layers",
    ),
    (np.zeros(3), TypeError, "model must be one of LSTM, .* got ndarray"),
    (None, TypeError, "got NoneType"),
]


@pytest.mark.parametrize(("ours", "error", "text"), NOT_KERAS)
def test_what_keras_has_not_is_refused(path, ours, error, text):
    with pytest.raises(error, match=text):
        fl.keras.save(ours, path)
    assert not path.exists()


def test_the_name_of_the_file(tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.keras, got .*model\.h5"):
        fl.keras.save(model(), tmp_path / "model.h5")


def test_without_h5py(path, monkeypatch):
    fl.keras.save(model(), path)
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(ImportError, match=r"needs h5py: pip install 'fastlstm\[keras\]'"):
        fl.keras.load(path)
    with pytest.raises(ImportError, match="needs h5py"):
        fl.keras.save(model(), path)


CELL = {"lstm/cell": constant_cell(3, 4)}
LSTM = layer("LSTM", units=3)
FAULTS = [
    ([layer("Transformer")], CELL, "layer 'transformer' (Transformer) is not supported; supported"),
    ([layer("LSTM", units=3, return_state=True)], CELL, "has return_state=True, which is not"),
    ([layer("LSTM", units=3, colour="red")], CELL, "has colour='red', which is not supported"),
    ([layer("LSTM", units=3, return_sequences=1)], CELL, "has return_sequences=1, which"),
    ([layer("LSTM", units=3, dropout="x")], CELL, "has dropout='x', which"),
    ([layer("LSTM", units=3, activation=["relu"])], CELL, "has activation=['relu'], which"),
    ([layer("LSTM", units=4)], CELL, "has units=4, but weights of 3"),
    ([layer("LSTM", units=10**12)], CELL, "has units=1000000000000, but weights of 3"),
    ([layer("LSTM", units=3, use_bias=False)], CELL, "must have 2 arrays in layers/lstm/cell"),
    ([LSTM], {"lstm/cell": CELL["lstm/cell"][:1]}, "(kernel, recurrent_kernel, bias), found 1"),
    (
        [LSTM],
        {},
        "3 arrays in layers/lstm/cell (kernel, recurrent_kernel, bias), found 0",
    ),
    ([LSTM], {"lstm/cell": [np.ones((4, 3), "f4")] * 3}, "do not fit it: keras"),
    ([LSTM], {"lstm/cell": [a.astype("f2") for a in CELL["lstm/cell"]]}, "has dtype float16"),
    ([LSTM], {"lstm/cell": [np.array([b"x"])] * 3}, "has dtype"),
    (
        [layer("Dense", units=2)],
        {"dense": [np.ones((3, 4), "f4"), np.ones(4, "f4")]},
        "has units=2",
    ),
    (
        [layer("Dense", units=4)],
        {"dense": [np.ones((3, 4), "f4"), np.ones(3, "f4")]},
        "the weights of layer 'dense' (Dense) do not fit it: bias must have shape (4,)",
    ),
    (
        [layer("Embedding", input_dim=10**9, output_dim=2)],
        {"embedding": [np.ones((3, 2), "f4")]},
        "must have an array (1000000000, 2), found (3, 2)",
    ),
    ([LSTM, LSTM], CELL, "found 0"),
    (
        [layer("LSTM", units=3, return_sequences=True), LSTM],
        CELL | {"lstm_1/cell": constant_cell(3, 4)},
        "member 1 (LSTM) takes 4 features, but member 0 (LSTM) gives 3",
    ),
    ([LSTM, LSTM], CELL | {"lstm_1/cell": constant_cell(3, 3)}, "needs a sequence"),
    (
        [layer("InputLayer", batch_shape=[None, 5, 2]), LSTM],
        CELL,
        "takes 4 features, its in",
    ),
    ([layer("InputLayer")], {}, "the model has no layers"),
    ([layer("LSTM", units=3, dtype="bfloat16")], CELL, "has dtype='bfloat16'"),
    ([{**LSTM, "registered_name": "mine>LSTM"}], CELL, "is not one of Keras' own"),
    ([{**LSTM, "module": "os"}], CELL, "is not one of Keras' own: nothing is looked up or exec"),
    ([{"class_name": "LSTM"}], CELL, "a layer of the config has no class_name or no config"),
    ([[]], CELL, "the config has no list of layers"),
    ([layer("TimeDistributed", layer=None)], {}, "has no class_name or no config"),
]


@pytest.mark.parametrize(("layers", "arrays", "text"), FAULTS)
def test_faults_of_the_model(path, layers, arrays, text):
    with pytest.raises(FormatError) as caught:
        loaded(path, *layers, **arrays)
    assert str(caught.value).startswith(f"{path}: ")
    assert text in str(caught.value)
