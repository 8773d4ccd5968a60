# SPDX-License-Identifier: MIT
"""Dense, Dropout, LastState and Sequential: gradients, one buffer, names, refusals."""

import copy
import json
import pickle

import numpy as np
import pytest

from fastlstm.layer import LSTM
from fastlstm.modules import Dense, Dropout, LastState, Sequential, module_from_config

DTYPES = ("float32", "float64")
ACTIVATIONS = (None, "relu", "tanh", "sigmoid")


@pytest.fixture
def rng():
    return np.random.default_rng(22)


def central_difference(f, a, h=1e-6):
    """The gradient of the scalar f() with respect to the array a, which is changed and restored."""
    gradient = np.zeros_like(a)
    for k in np.ndindex(a.shape):
        kept = a[k]
        a[k] = kept + h
        up = f()
        a[k] = kept - h
        down = f()
        a[k] = kept
        gradient[k] = (up - down) / (2 * h)
    return gradient


def check_gradients(model, x, rng, **keywords):
    """Compare backward with central differences: x and every parameter by name.

    The same seed before each forward gives the same dropout masks.
    """

    def forward():
        return model.forward(x, rng=np.random.default_rng(5), **keywords)

    y, tape = forward()
    dy = rng.normal(size=y.shape)
    dx, grads = model.backward(tape, dy)
    assert dx.shape == x.shape
    assert list(grads) == list(model.parameters())
    for name, a, da in [("x", x, dx)] + [(n, p, grads[n]) for n, p in model.parameters().items()]:
        expected = central_difference(lambda: float((forward()[0] * dy).sum()), a)
        assert da.shape == a.shape
        # the quotient is good to about 1e-16 / h = 1e-10, beside sums of order 10
        np.testing.assert_allclose(da, expected, rtol=1e-6, atol=1e-8, err_msg=name)
    return y, dx, grads


def many_layers(dtype="float64", **changes):
    arguments = {"num_layers": 2, "batch_first": True, "dtype": dtype, "seed": 1, **changes}
    lstm = LSTM(2, 4, **arguments)
    return Sequential([lstm, LastState(), Dropout(0.3), Dense(lstm.output_size, 3, dtype=dtype)])


# -- gradients ---------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("leading", [(), (5,), (2, 3)])
def test_dense_gradients(activation, bias, leading, rng):
    dense = Dense(4, 3, bias=bias, activation=activation, dtype="float64", seed=0)
    check_gradients(dense, rng.normal(size=(*leading, 4)), rng)


@pytest.mark.parametrize("p", [0.0, 0.4, 1.0])
def test_dropout_gradients(p, rng):
    check_gradients(Dropout(p), rng.normal(size=(3, 4)), rng)


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("batch", [(), (3,)])
def test_last_state_gradients(directions, batch, rng):
    check_gradients(LastState(), rng.normal(size=(directions, *batch, 4)), rng)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("lengths", [None, [0, 5, 3]])
@pytest.mark.parametrize(
    "changes",
    [{}, {"proj_size": 2}, {"bidirectional": True, "dropout": 0.5}],
    ids=["plain", "projected", "bidirectional-dropout"],
)
def test_lstm_last_state_dense_gradients(changes, lengths, batch_first, rng):
    model = many_layers(batch_first=batch_first, **changes)
    x = rng.normal(size=(3, 5, 2) if batch_first else (5, 3, 2))
    _, dx, _ = check_gradients(model, x, rng, lengths=lengths)
    for b, length in enumerate(lengths or ()):
        assert not (dx[b, length:] if batch_first else dx[length:, b]).any()


def test_sequence_to_sequence_gradients(rng):
    model = Sequential(
        [
            LSTM(2, 3, batch_first=True, dtype="float64", seed=0),
            Dropout(0.2),
            LSTM(3, 4, batch_first=True, bidirectional=True, dtype="float64", seed=1),
            Dense(8, 2, activation="tanh", dtype="float64", seed=2),
        ]
    )
    y, _, _ = check_gradients(model, rng.normal(size=(3, 4, 2)), rng, lengths=[4, 1, 3])
    assert y.shape == (3, 4, 2)


def test_gradients_from_an_initial_state(rng):
    model = Sequential(
        [
            LSTM(2, 3, batch_first=True, dtype="float64", seed=0),
            LSTM(3, 4, batch_first=True, dtype="float64", seed=1),
            LastState(),
            Dense(4, 1, dtype="float64", seed=2),
        ]
    )
    state = [tuple(rng.normal(size=(2, 1, 3, h))) for h in (3, 4)]
    check_gradients(model, rng.normal(size=(3, 4, 2)), rng, state=state)


def test_unbatched_input(rng):
    model = many_layers(bidirectional=True)
    x = rng.normal(size=(5, 2))
    check_gradients(model, x, rng)
    # GEMM of one row or of several need not add in the same order
    np.testing.assert_allclose(model(x), model(x[None])[0], rtol=1e-13)


# -- values ------------------------------------------------------------------------------------


def test_dense_worked_out_by_hand():
    dense = Dense(2, 2, dtype="float64")
    dense.load_state_dict({"weight": [[1, 2], [3, -4]], "bias": [10, 0.5]})
    np.testing.assert_array_equal(
        dense(np.array([[1.0, 1.0], [0.0, 2.0]])), [[13, -0.5], [14, -7.5]]
    )
    relu = Dense(2, 2, activation="relu", dtype="float64")
    relu.load_state_dict(dense.state_dict())
    np.testing.assert_array_equal(relu(np.ones(2)), [13, 0])


def test_sigmoid_is_exact_in_the_tails():
    dense = Dense(1, 1, bias=False, activation="sigmoid", dtype="float64")
    dense.flat[:] = 1
    y = dense(np.array([[-1e4], [0.0], [1e4]]))
    np.testing.assert_array_equal(y, [[0], [0.5], [1]])


@pytest.mark.parametrize("dtype", DTYPES)
def test_dense_starts_as_in_pytorch(dtype):
    dense = Dense(16, 5000, dtype=dtype, seed=3)
    for a in dense.parameters().values():
        assert a.dtype == dtype
        assert 0.249 < np.abs(a).max() <= 0.25  # 1 / sqrt(16)
        assert abs(a.std() - 0.25 / 3**0.5) < 0.005
    assert (Dense(3, 2, seed=3).flat == Dense(3, 2, seed=3).flat).all()
    assert (Dense(3, 2, seed=3).flat != Dense(3, 2, seed=4).flat).all()


def test_dropout_drops_the_fraction_and_keeps_the_mean(rng):
    x = np.ones((200, 300), "float32")
    y, mask = Dropout(0.25).forward(x, rng)
    assert y.dtype == x.dtype
    # five standard deviations of 60 000 draws: 0.009
    assert abs((y == 0).mean() - 0.25) < 0.009
    np.testing.assert_allclose(y[y != 0], 1 / 0.75, rtol=1e-6)
    assert (mask == y).all()


def test_dropout_draws_from_the_generator_it_is_given_or_its_own(rng):
    x = rng.normal(size=(4, 50))
    seeded = [Dropout(0.5).forward(x, np.random.default_rng(1))[0] for _ in range(2)]
    np.testing.assert_array_equal(*seeded)
    own = Dropout(0.5, seed=1)
    first, second = own.forward(x)[0], own.forward(x)[0]
    np.testing.assert_array_equal(first, seeded[0])
    assert (first != second).any()
    assert Dropout(0.5)(x) is x


@pytest.mark.parametrize("dtype", DTYPES)
def test_call_equals_forward_without_dropout(dtype, rng):
    model = many_layers(dtype)
    x = rng.normal(size=(6, 5, 2)).astype(dtype)
    model.modules[2].p = 0.0
    y = model(x, lengths=[5, 3, 0, 1, 2, 5])
    np.testing.assert_array_equal(y, model.forward(x, lengths=[5, 3, 0, 1, 2, 5])[0])
    assert y.dtype == dtype


def test_last_state_is_read_at_each_row_s_own_length(rng):
    model = many_layers(bidirectional=True)
    x = rng.normal(size=(3, 5, 2))
    y = model(x, lengths=[5, 2, 4])
    for b, length in enumerate([5, 2, 4]):
        np.testing.assert_allclose(y[b], model(x[b : b + 1, :length])[0], rtol=1e-13)


def test_final_state_of_the_tape_continues_the_series(rng):
    model = Sequential(
        [LSTM(2, 3, batch_first=True, dtype="float64", seed=0), Dense(3, 1, dtype="float64")]
    )
    x = rng.normal(size=(2, 8, 2))
    whole = model(x)
    head, tape = model.forward(x[:, :5])
    tail = model(x[:, 5:], state=tape.states)
    np.testing.assert_allclose(np.concatenate([head, tail], axis=1), whole, rtol=1e-13)
    np.testing.assert_array_equal(model(x[:, 5:], state=tape.states[0]), tail)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_predict_equals_one_call(batch_size, rng):
    model = many_layers()
    x, lengths = rng.normal(size=(7, 5, 2)), rng.integers(6, size=7)
    y = model.predict(x, batch_size=batch_size, lengths=lengths)
    np.testing.assert_allclose(y, model(x, lengths=lengths), rtol=1e-12)


def test_predict_takes_windows_without_expanding_them(rng):
    model = Sequential(
        [LSTM(1, 3, batch_first=True, dtype="float64"), LastState(), Dense(3, 1, dtype="float64")]
    )
    windows = np.lib.stride_tricks.sliding_window_view(rng.normal(size=50), 10)[..., None]
    np.testing.assert_allclose(
        model.predict(windows, batch_size=16), model(np.ascontiguousarray(windows)), rtol=1e-12
    )


# -- one buffer, names, files ---------------------------------------------------------------------


def test_sequential_holds_all_parameters_in_one_buffer():
    lstm, head = LSTM(2, 4, seed=0), Dense(4, 3, seed=0)
    values = np.concatenate([lstm.flat, head.flat])
    model = Sequential([lstm, LastState(), Dropout(0.5), head])
    np.testing.assert_array_equal(model.flat, values)
    assert list(model.parameters()) == [
        *("0." + name for name in lstm.parameters()), "3.weight", "3.bias",
    ]  # fmt: skip
    model.flat[:] = 7
    assert (lstm.flat == 7).all()
    assert (head.parameters()["weight"] == 7).all()
    head.parameters()["bias"][:] = 8
    assert (model.flat[-3:] == 8).all()
    assert (model.parameters()["3.bias"] == 8).all()


def test_bind_moves_the_values_of_nested_modules():
    inner = Sequential([Dense(2, 2, seed=0), Dense(2, 2, seed=1)])
    model = Sequential([Dense(2, 2, seed=2), inner])
    kept = model.flat.copy()
    buffer = np.zeros(model.flat.size, "float32")
    model.bind(buffer)
    assert model.flat is buffer
    np.testing.assert_array_equal(buffer, kept)
    buffer[:] = 3
    assert (inner.modules[1].parameters()["weight"] == 3).all()
    assert list(model.parameters())[-1] == "1.1.bias"
    for wrong in (
        np.zeros(3, "float32"),
        buffer.astype("float64"),
        np.zeros(2 * 18, "float32")[::2],
    ):
        with pytest.raises(ValueError, match="flat must be a contiguous float32 array"):
            model.bind(wrong)


def test_flat_can_be_updated_by_assignment():
    model = Sequential([Dense(2, 2, seed=0)])
    buffer, kept = model.flat, model.flat.copy()
    model.flat += 1
    assert model.flat is buffer
    np.testing.assert_array_equal(model.modules[0].flat, kept + 1)


def test_a_member_of_two_sequentials_is_not_trained_in_vain():
    shared = Dense(2, 2)
    first = Sequential([shared])
    Sequential([shared, Dense(2, 2)])
    y, tape = first.forward(np.ones((1, 2), "float32"))
    with pytest.raises(RuntimeError, match=r"member 0 \(Dense\) has left this buffer"):
        first.backward(tape, y)


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))]
)
def test_a_copy_is_whole_and_independent(duplicate, rng):
    model = many_layers()
    x = rng.normal(size=(3, 4, 2))
    y, again = model(x), duplicate(model)
    np.testing.assert_array_equal(again(x), y)
    check_gradients(again, x, rng)
    again.flat[:] = 0
    assert not again.modules[3].flat.any()
    assert not again(x).any()
    np.testing.assert_array_equal(model(x), y)
    model.backward(*reversed(model.forward(x)))
    head = Dense(2, 2)
    duplicate(head).flat[:] = 0
    assert head.flat.all()


def test_a_frozen_member_stays_frozen_and_cannot_be_trained(rng):
    lstm = LSTM(2, 4, batch_first=True, seed=0).freeze()
    model = Sequential([lstm, LastState(), Dense(4, 1)])
    assert not lstm.flat.flags.writeable
    np.testing.assert_array_equal(model.flat[: lstm.flat.size], lstm.flat)
    x = rng.normal(size=(3, 4, 2)).astype("float32")
    again = pickle.loads(pickle.dumps(model))
    assert not again.modules[0].flat.flags.writeable
    np.testing.assert_array_equal(again(x), model(x))
    y, tape = model.forward(x)
    with pytest.raises(
        RuntimeError, match=r"member 0 \(LSTM\) has left this buffer: it was frozen"
    ):
        model.backward(tape, y)


def test_config_builds_the_same_model_and_passes_through_json(rng):
    model = Sequential(
        [
            LSTM(2, 4, num_layers=2, bidirectional=True, batch_first=True, dropout=0.1),
            LastState(),
            Dropout(0.3),
            Sequential([Dense(8, 5, activation="relu"), Dense(5, 1, bias=False)]),
        ]
    )
    config = json.loads(json.dumps(model.config))
    again = Sequential.from_config(config)
    assert again.config == model.config
    again.load_state_dict(model.state_dict())
    x = rng.normal(size=(3, 4, 2)).astype("float32")
    np.testing.assert_array_equal(again(x), model(x))
    assert repr(again) == repr(model)
    for kind in ("LSTM", "Dense", "Dropout", "LastState", "Sequential"):
        assert kind in repr(model)


def test_module_from_config_knows_its_types_only():
    with pytest.raises(ValueError, match=r"type must be one of LSTM, Dense, .* got 'os.system'"):
        module_from_config({"type": "os.system"})
    with pytest.raises(ValueError, match="got None"):
        module_from_config({})


def test_load_state_dict_changes_all_or_nothing():
    model = many_layers()
    kept = model.flat.copy()
    good = {name: a + 1 for name, a in model.state_dict().items()}
    renamed = {("3.wait" if n == "3.weight" else n): a for n, a in good.items()}
    for wrong, text in (
        ({n: a for n, a in good.items() if n != "3.bias"}, "lacks bias"),
        (renamed, "lacks weight and has unknown wait"),
        (good | {"3.weight": np.zeros((4, 3))}, r"weight must have shape \(3, 4\), got \(4, 3\)"),
        (good | {"4.weight": np.zeros(1)}, "unknown 4.weight; names begin with 0. to 3."),
        (good | {"weight": np.zeros(1)}, "unknown weight"),
        (good | {"2.p": np.zeros(1)}, "has unknown p"),
    ):
        with pytest.raises(ValueError, match=text):
            model.load_state_dict(wrong)
        np.testing.assert_array_equal(model.flat, kept)
    model.load_state_dict(good)
    np.testing.assert_allclose(model.modules[3].flat, kept[-15:] + 1)


def test_load_state_dict_says_which_member():
    model = Sequential([Dense(1, 1), Dense(1, 1)])
    with pytest.raises(ValueError, match="lacks") as caught:
        model.load_state_dict({n: a for n, a in model.state_dict().items() if n[0] == "0"})
    assert caught.value.__notes__ == ["in member 1 of the Sequential, Dense"]


def test_state_dict_is_a_copy():
    model = many_layers()
    model.state_dict()["3.weight"][:] = 9
    assert not (model.flat == 9).any()


# -- refusals ------------------------------------------------------------------------------------


def test_dense_refusals():
    with pytest.raises(ValueError, match=r"losses.cross_entropy, which takes logits"):
        Dense(2, 2, activation="softmax")
    with pytest.raises(ValueError, match="None or one of 'relu', 'tanh', 'sigmoid', got 'elu'"):
        Dense(2, 2, activation="elu")
    with pytest.raises(ValueError, match="in_features must be at least 1, got 0"):
        Dense(0, 2)
    with pytest.raises(TypeError, match=r"out_features must be an int, got 2.0"):
        Dense(2, 2.0)
    with pytest.raises(TypeError, match="dtype must be float32 or float64"):
        Dense(2, 2, dtype="float16")
    dense = Dense(3, 2)
    with pytest.raises(ValueError, match=r"\(..., in_features\) = \(..., 3\), got \(4, 2\)"):
        dense(np.zeros((4, 2), "float32"))
    with pytest.raises(TypeError, match="weight is float32 but x is float64"):
        dense(np.zeros((4, 3)))
    y, tape = dense.forward(np.zeros((4, 3), "float32"))
    with pytest.raises(ValueError, match=r"dy must have shape .* = \(4, 2\), got \(4, 3\)"):
        dense.backward(tape, np.zeros((4, 3), "float32"))
    with pytest.raises(TypeError, match="dy is float64"):
        dense.backward(tape, y.astype("float64"))


@pytest.mark.parametrize("p", [-0.1, 1.1, np.nan])
def test_dropout_refusals(p):
    with pytest.raises(ValueError, match=r"p must be in \[0, 1\]"):
        Dropout(p)


def test_sequential_refuses_members_that_do_not_fit():
    lstm = LSTM(2, 4)
    for members, text in (
        ([], "must not be empty"),
        (
            [Dense(2, 3), Dense(4, 1)],
            r"member 1 \(Dense\) takes 4 features, but member 0 .* gives 3",
        ),
        (
            [lstm, LastState(), Dropout(0.1), Dense(8, 1)],
            r"takes 8 features, but member 0 \(LSTM\)",
        ),
        ([LSTM(2, 4, bidirectional=True), Dense(4, 1)], "takes 4 features, .* gives 8"),
        ([LSTM(2, 4, proj_size=3), Dense(4, 1)], "takes 4 features, .* gives 3"),
        ([lstm, LSTM(3, 4)], "takes 3 features"),
        ([lstm, LSTM(4, 4, batch_first=True)], "batch_first=True, unlike the one before"),
        ([lstm, LastState(), LSTM(4, 4)], "needs a sequence"),
        ([LastState(), Dense(4, 1)], "directly behind a recurrent layer"),
        ([lstm, Dropout(0.1), LastState()], "directly behind a recurrent layer"),
    ):
        with pytest.raises(ValueError, match=text):
            Sequential(members)
    dense = Dense(2, 2)
    for members, text in (
        ([dense, dense], "stands in the list twice"),
        ([dense, np.tanh], r"member 1 \(ufunc\) is not a module"),
        ([dense, Dense(2, 1, dtype="float64")], r"\(Dense\) is float32 but member 1 .* float64"),
        ([Sequential([lstm, Dense(4, 2)])], "put its members in the list instead"),
    ):
        with pytest.raises(TypeError, match=text):
            Sequential(members)


def test_sequential_refuses_states_and_lengths_it_has_no_use_for():
    x = np.zeros((1, 3, 2), "float32")
    model = Sequential([LSTM(2, 4, batch_first=True), LSTM(4, 4, batch_first=True)])
    one = (np.zeros((1, 1, 4), "float32"),) * 2
    with pytest.raises(ValueError, match="one entry for each of 2 recurrent members"):
        model(x, state=one)
    with pytest.raises(ValueError, match="one entry for each of 0"):
        Sequential([Dense(2, 1)]).forward(x, state=one)
    with pytest.raises(ValueError, match="lengths need a recurrent member"):
        Sequential([Dense(2, 1)])(x, lengths=[3])
    with pytest.raises(ValueError, match="batch_first=True, or call"):
        Sequential([LSTM(2, 4)]).predict(x)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        model.predict(x, batch_size=0)


# -- PyTorch -------------------------------------------------------------------------------------


@pytest.mark.parity
@pytest.mark.parametrize("dtype", DTYPES)
def test_sequential_equals_torch_by_its_names(dtype, rng):
    torch = pytest.importorskip("torch")

    class Last(torch.nn.Module):
        def forward(self, result):
            return result[1][0][-1]

    peer = torch.nn.Sequential(
        torch.nn.LSTM(2, 4, num_layers=2, batch_first=True), Last(), torch.nn.Linear(4, 3)
    ).to(getattr(torch, dtype))
    model = Sequential(
        [LSTM(2, 4, 2, batch_first=True, dtype=dtype), LastState(), Dense(4, 3, dtype=dtype)]
    )
    model.load_state_dict({name: a.numpy() for name, a in peer.state_dict().items()})
    x = rng.normal(size=(3, 6, 2)).astype(dtype)
    theirs = torch.tensor(x, requires_grad=True)
    expected = peer(theirs)
    expected.square().sum().backward()
    y, tape = model.forward(x)
    dx, grads = model.backward(tape, 2 * y)
    tolerance = 200 * float(np.finfo(dtype).eps)  # sums of 6 steps, 2 layers, 4 units
    np.testing.assert_allclose(y, expected.detach().numpy(), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(dx, theirs.grad.numpy(), rtol=tolerance, atol=tolerance)
    named = dict(peer.named_parameters())
    for name, a in grads.items():
        other = named[name.replace("bias_l", "bias_ih_l")].grad.numpy()
        np.testing.assert_allclose(a, other, rtol=tolerance, atol=tolerance, err_msg=name)
    peer.load_state_dict({name: torch.tensor(a) for name, a in model.state_dict().items()})
    np.testing.assert_allclose(peer(theirs).detach(), y, rtol=tolerance, atol=tolerance)
