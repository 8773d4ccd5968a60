# SPDX-License-Identifier: MIT
"""LSTM as a value: its parameters, state_dict, config, copies, and every error text."""

import copy
import json
import pickle

import numpy as np
import pytest
from stacks import (
    DEEP,
    EDGE_STACKS,
    STACKS,
    cell_weights,
    make_stack_problem,
    with_weights,
)  # fmt: skip

import fastlstm as fl

stacks = pytest.mark.parametrize("stack", STACKS + EDGE_STACKS, ids=str)


# -- parameters ------------------------------------------------------------------------------


def test_layer_parameters_have_pytorch_s_names_and_shapes(make_layer):
    lstm = make_layer(5, 9, num_layers=2, bidirectional=True, proj_size=4)
    expected = {}
    for suffix, inputs in (("l0", 5), ("l0_reverse", 5), ("l1", 8), ("l1_reverse", 8)):
        expected |= {
            f"weight_ih_{suffix}": (36, inputs), f"weight_hh_{suffix}": (36, 4),
            f"bias_{suffix}": (36,), f"weight_hr_{suffix}": (4, 9),
        }  # fmt: skip
    assert lstm.parameters().shapes == expected
    assert lstm.flat.shape == (sum(np.prod(s) for s in expected.values()),)


@stacks
def test_layer_parameters_are_views_of_flat(make_layer, dtype, stack):
    lstm = make_layer(**stack.arguments(), dtype=dtype)
    assert lstm.flat.dtype == dtype
    assert lstm.flat.flags.c_contiguous
    parameters = lstm.parameters()
    lstm.flat[:] = np.arange(lstm.flat.size)
    joined = np.concatenate([a.ravel() for a in parameters.values()])
    np.testing.assert_array_equal(joined, lstm.flat)
    for a in parameters.values():
        assert a.size == 0 or np.shares_memory(a, lstm.flat)


def test_layer_uses_what_is_written_to_flat(make_layer, dtype):
    problem = make_stack_problem(DEEP, dtype)
    donor, lstm = with_weights(make_layer, problem), make_layer(**DEEP.arguments(), dtype=dtype)
    answer = donor(problem.x)[0]
    assert (lstm(problem.x)[0] != answer).any()
    lstm.flat[:] = donor.flat
    np.testing.assert_array_equal(lstm(problem.x)[0], answer)
    lstm.flat += 1
    np.testing.assert_array_equal(lstm.flat, donor.flat + 1)
    for name, a in lstm.parameters().items():
        a -= 1
        assert a is not donor.parameters()[name]
    np.testing.assert_allclose(lstm(problem.x)[0], answer, rtol=1e-3, atol=1e-5)


def test_layer_bind_moves_the_parameters(make_layer, dtype):
    problem = make_stack_problem(DEEP, dtype)
    lstm = with_weights(make_layer, problem)
    before, answer = lstm.flat.copy(), lstm(problem.x)[0]
    large = np.zeros(lstm.flat.size + 10, dtype)
    lstm.bind(large[5:-5])
    np.testing.assert_array_equal(large[5:-5], before)
    np.testing.assert_array_equal(lstm(problem.x)[0], answer)
    large[:] = 0
    assert not lstm(problem.x)[0].any()
    with pytest.raises(ValueError, match="flat must be a contiguous"):
        lstm.bind(large)


def test_layer_in_a_read_only_view_is_not_frozen(make_layer):
    """Whoever has the buffer may write to it still."""
    lstm = make_layer(3, 4, seed=0)
    base, x = np.ones_like(lstm.flat), np.ones((5, 2, 3), np.float32)
    view, state = base[:], lstm.state_dict()
    lstm.bind(view)
    view.flags.writeable = False
    lstm.load_state_dict(state)
    before = lstm(x)[0]
    base[...] = 0
    assert before.any()
    assert not lstm(x)[0].any()


def test_layer_freeze_makes_read_only(make_layer):
    problem = make_stack_problem(DEEP)
    lstm = with_weights(make_layer, problem)
    answer, old = lstm(problem.x)[0], lstm.flat
    assert lstm.freeze() is lstm
    old[:] = 0
    np.testing.assert_array_equal(lstm(problem.x)[0], answer)
    with pytest.raises(ValueError, match="read-only"):
        lstm.flat[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        lstm.parameters()["bias_l0"][0] = 1
    with pytest.raises(ValueError, match="read-only"):
        lstm.load_state_dict(problem.weights)
    for view in (lstm.flat, lstm.parameters()["bias_l0"]):
        with pytest.raises(ValueError, match="WRITEABLE"):
            view.flags.writeable = True


def test_layer_starts_from_its_seed(make_layer, dtype):
    one, two, other = (make_layer(5, 64, seed=s, dtype=dtype) for s in (1, 1, 2))
    np.testing.assert_array_equal(one.flat, two.flat)
    assert (one.flat != other.flat).any()
    assert (make_layer(5, 64).flat != make_layer(5, 64).flat).any()
    for name, a in one.parameters().items():
        bound = (2 if name.startswith("bias") else 1) / 8
        assert bound * 0.8 < np.abs(a).max() <= bound, name
        assert abs(a.mean()) < bound / 4, name


# -- state_dict ------------------------------------------------------------------------------


@stacks
def test_layer_state_dict_round_trip(make_layer, dtype, stack):
    lstm, other = (make_layer(**stack.arguments(), dtype=dtype, seed=s) for s in (1, 2))
    state = lstm.state_dict()
    names = {f"{kind}_{suffix}" for _, _, suffix, _ in stack.cells() for kind in kinds(stack)}
    assert set(state) == names
    other.load_state_dict(state)
    np.testing.assert_array_equal(other.flat, lstm.flat)
    for a in state.values():
        a[...] = 7  # copies
    np.testing.assert_array_equal(other.flat, lstm.flat)


def kinds(stack):
    """The kinds of PyTorch's weights that a stack has."""
    biases = ["bias_ih", "bias_hh"] if stack.bias else []
    return ["weight_ih", "weight_hh", *biases] + ["weight_hr"] * bool(stack.P)


def test_layer_state_dict_writes_the_bias_once(make_layer):
    lstm = make_layer(5, 9, seed=0)
    state = lstm.state_dict()
    np.testing.assert_array_equal(state["bias_ih_l0"], lstm.parameters()["bias_l0"])
    assert not state["bias_hh_l0"].any()


def test_layer_load_state_dict_sums_the_biases(make_layer, dtype):
    problem = make_stack_problem(DEEP, dtype)
    lstm = with_weights(make_layer, problem)
    for _, _, suffix, _ in DEEP.cells():
        expected = cell_weights(problem, suffix)["b"]
        np.testing.assert_array_equal(lstm.parameters()[f"bias_{suffix}"], expected)


def test_layer_load_state_dict_takes_our_names_and_other_dtypes(make_layer):
    lstm, other = make_layer(5, 9, seed=1), make_layer(5, 9, seed=2, dtype="float64")
    other.load_state_dict(lstm.parameters())
    np.testing.assert_array_equal(other.flat, lstm.flat.astype("float64"))


@pytest.mark.parametrize("change", ["missing", "unknown", "shape", "int"])
def test_layer_load_state_dict_error_changes_nothing(make_layer, change):
    lstm = make_layer(5, 9, num_layers=2, seed=0)
    before, state = lstm.flat.copy(), make_layer(5, 9, num_layers=2, seed=1).state_dict()
    if change == "missing":
        del state["bias_hh_l1"]
    elif change == "unknown":
        state["weight_ih_l2"] = state["weight_ih_l1"]
    elif change == "shape":
        state["weight_hh_l1"] = state["weight_hh_l1"].T
    else:
        state["weight_hh_l1"] = np.zeros((36, 9), int)
    text = dict(
        missing="state_dict has no bias_hh_l1",
        unknown="state_dict has weight_ih_l2, which this layer does not have",
        shape=r"weight_hh_l1 must have shape \(4\*H, .*\) = \(36, 9\), got \(9, 36\)",
        int="weight_hh_l1 must be float32 or float64",
    )[change]
    with pytest.raises((ValueError, TypeError), match=text):
        lstm.load_state_dict(state)
    np.testing.assert_array_equal(lstm.flat, before)


# -- the layer as a value --------------------------------------------------------------------

OPTIONS = dict(
    num_layers=2, bias=False, batch_first=True, dropout=0.25, bidirectional=True, proj_size=3,
    dtype="float64",
)  # fmt: skip


def test_layer_config_round_trip():
    lstm = fl.LSTM(5, 9, **OPTIONS)
    config = json.loads(json.dumps(lstm.config))
    assert config["type"] == "LSTM"
    assert {name: config[name] for name in OPTIONS} == OPTIONS
    again = fl.LSTM.from_config(config)
    assert again.config == lstm.config
    assert again.parameters().shapes == lstm.parameters().shapes


def test_layer_repr_builds_it_again():
    lstm = fl.LSTM(5, 9, **OPTIONS)
    again = eval(repr(lstm), {"LSTM": fl.LSTM})
    assert again.config == lstm.config
    assert repr(fl.LSTM(5, 9)) == "LSTM(5, 9)"


def pickled(a):
    """A copy by way of pickle."""
    return pickle.loads(pickle.dumps(a))


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, pickled])
def test_layer_is_copied_whole(make_layer, dtype, clone):
    """For joblib, Dask and scikit-learn: the copy's parameters are views of its own flat."""
    problem = make_stack_problem(DEEP, dtype)
    lstm = with_weights(make_layer, problem, dropout=0.5)
    other = clone(lstm)
    np.testing.assert_array_equal(other(problem.x)[0], lstm(problem.x)[0])
    np.testing.assert_array_equal(other.forward(problem.x)[0], lstm.forward(problem.x)[0])
    other.flat[:] = 0
    assert not other(problem.x)[0].any()
    assert not any(a.any() for a in other.parameters().values())
    assert lstm(problem.x)[0].any()
    with pytest.raises(ValueError, match="read-only"):
        clone(lstm.freeze()).flat[0] = 1


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, pickled])
def test_layer_parameters_are_copied_whole(clone):
    parameters = fl.LSTM(5, 9, seed=0).parameters()
    other = clone(parameters)
    np.testing.assert_array_equal(other.flat, parameters.flat)
    other.flat[:] = 7
    assert all((a == 7).all() for a in other.values())
    assert (parameters.flat != 7).all()


CONSTRUCTOR_ERRORS = {
    "input_size-float": (dict(input_size=5.0), TypeError, "input_size must be an int, got 5.0"),
    "input_size-negative": (
        dict(input_size=-1), ValueError, "input_size must be at least 0, got -1",
    ),
    "hidden_size-zero": (dict(hidden_size=0), ValueError, "hidden_size must be at least 1, got 0"),
    "hidden_size-bool": (dict(hidden_size=True), TypeError, "hidden_size must be an int, got True"),
    "num_layers-zero": (dict(num_layers=0), ValueError, "num_layers must be at least 1, got 0"),
    "dropout-high": (dict(dropout=1.5), ValueError, "dropout must be in [0, 1], got 1.5"),
    "dropout-nan": (dict(dropout=float("nan")), ValueError, "dropout must be in [0, 1], got nan"),
    "dropout-str": (dict(dropout="0.5"), TypeError, "dropout must be a float in [0, 1], got '0.5'"),
    "proj_size-H": (
        dict(proj_size=9), ValueError, "proj_size must be less than hidden_size = 9, got 9",
    ),
    "proj_size-negative": (dict(proj_size=-1), ValueError, "proj_size must be at least 0, got -1"),
    "dtype-int": (dict(dtype="int32"), TypeError, "dtype must be float32 or float64, got 'int32'"),
    "dtype-half": (dict(dtype=np.float16), TypeError, "dtype must be float32 or float64, got "),
    "dtype-none": (dict(dtype="no"), TypeError, "dtype must be float32 or float64, got 'no'"),
    "spec": (dict(spec="ifo"), TypeError, "spec must be a fastlstm.Spec, got str"),
    "backend": (
        dict(backend="cuda"), ValueError, "backend must be one of engine, reference, got 'cuda'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONSTRUCTOR_ERRORS)
def test_layer_constructor_error(name):
    change, kind, text = CONSTRUCTOR_ERRORS[name]
    with pytest.raises(kind) as caught:
        fl.LSTM(**dict(input_size=5, hidden_size=9) | change)
    assert text in str(caught.value)


def z(*shape, dtype="float32"):
    return np.zeros(shape, dtype)


CALL_ERRORS = {
    "x-dtype": (
        dict(x=z(7, 3, 5, dtype="float64")), TypeError, "x is float64 but the layer is float32",
    ),
    "x-features": (
        dict(x=z(7, 3, 4)), ValueError,
        "x must have input_size = 5 features on its last axis, got shape (7, 3, 4)",
    ),
    "x-1d": (
        dict(x=z(5)), ValueError,
        "x must have shape (T, B, I), or (T, I) without a batch, got (5,)",
    ),
    "x-4d": (
        dict(x=z(1, 7, 3, 5)), ValueError,
        "x must have shape (T, B, I), or (T, I) without a batch, got (1, 7, 3, 5)",
    ),
    "h0": (
        dict(state=(z(1, 3, 9), z(2, 3, 9))), ValueError,
        "h0 must have shape (L*D, B, H|P) = (2, 3, 9), got (1, 3, 9)",
    ),
    "c0": (
        dict(state=(z(2, 3, 9), z(3, 2, 9))), ValueError,
        "c0 must have shape (L*D, B, H) = (2, 3, 9), got (3, 2, 9)",
    ),
    "c0-dtype": (
        dict(state=(z(2, 3, 9), z(2, 3, 9, dtype="float64"))), TypeError,
        "x is float32 but c0 is float64; all arrays must share one dtype",
    ),
    "state-array": (dict(state=z(2, 3, 9)), TypeError, "state must be None or a pair (h0, c0)"),
    "lengths": (
        dict(lengths=[8, 1, 1]), ValueError, "lengths[0] must be in [0, T] = [0, 7], got 8",
    ),
    "lengths-unbatched": (
        dict(x=z(7, 5), lengths=[7]), ValueError,
        "lengths needs a batch: x must have 3 dimensions, got 2",
    ),
}  # fmt: skip


@pytest.mark.parametrize("way", ["call", "forward"])
@pytest.mark.parametrize("name", CALL_ERRORS)
def test_layer_call_error(make_layer, name, way):
    change, kind, text = CALL_ERRORS[name]
    lstm = make_layer(5, 9, num_layers=2)
    with pytest.raises(kind) as caught:
        (lstm if way == "call" else lstm.forward)(**dict(x=z(7, 3, 5)) | change)
    assert text in str(caught.value)


BACKWARD_ERRORS = {
    "dy": (dict(dy=z(7, 3, 8)), "dy must have shape (T, B, D*H) = (7, 3, 9), got (7, 3, 8)"),
    "dy-batch-first": (dict(dy=z(3, 7, 9)), "dy must have shape (T, B, D*H) = (7, 3, 9)"),
    "dy-dtype": (dict(dy=z(7, 3, 9, dtype="float64")), "x is float32 but dy is float64"),
    "dh_n": (dict(dstate=(z(3, 9), None)), "dh_n must have shape (L*D, B, H|P) = (2, 3, 9)"),
    "dstate": (dict(dstate=(None,)), "dstate must be None or a pair (dh_n, dc_n), got tuple"),
    "tape": (dict(tape=None), "tape must be the LSTMTape that forward of this layer returned"),
}


@pytest.mark.parametrize("name", BACKWARD_ERRORS)
def test_layer_backward_error_leaves_the_tape(make_layer, name):
    change, text = BACKWARD_ERRORS[name]
    lstm = make_layer(5, 9, num_layers=2)
    *_, tape = lstm.forward(z(7, 3, 5))
    with pytest.raises((TypeError, ValueError)) as caught:
        lstm.backward(**dict(tape=tape) | change)
    assert text in str(caught.value)
    lstm.backward(tape, z(7, 3, 9))


def test_layer_backward_refuses_the_tape_of_another_layer(make_layer):
    one, two = make_layer(5, 9), make_layer(5, 9)
    *_, tape = one.forward(z(7, 3, 5))
    with pytest.raises(TypeError, match="of this layer"):
        two.backward(tape)
