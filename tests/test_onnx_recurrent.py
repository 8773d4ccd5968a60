# SPDX-License-Identifier: MIT
"""LSTM, GRU and RNN nodes of ONNX: onnx's own cases, and random weights beside ONNX Runtime."""

import warnings
from functools import cache

import numpy as np
import pytest

pytestmark = pytest.mark.parity
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from onnx_models import (  # noqa: E402
    GATES,
    assert_same,
    node_model,
    onnxruntime_run,
    random_feeds,
)

import fastlstm.onnx as fo  # noqa: E402

OPERATORS = ("LSTM", "GRU", "RNN")
RAGGED = (3, 7, 0, 5)
ONNX_CASES = [
    *("test_lstm_defaults", "test_lstm_with_initial_bias", "test_lstm_with_peepholes"),
    *("test_lstm_batchwise", "test_lstm_reverse", "test_lstm_bidirectional"),
    *("test_gru_defaults", "test_gru_with_initial_bias", "test_gru_seq_length"),
    *("test_gru_batchwise", "test_gru_reverse", "test_gru_bidirectional"),
    *("test_simple_rnn_defaults", "test_simple_rnn_with_initial_bias", "test_rnn_seq_length"),
    *("test_simple_rnn_batchwise", "test_simple_rnn_reverse", "test_simple_rnn_bidirectional"),
]


@cache
def onnx_cases():
    """The node cases that the onnx package generates, by name."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of other operators overflow and divide by zero
        return {case.name: case for case in collect_testcases(None)}


def test_onnx_cases_are_all_those_of_recurrent_operators():
    found = {
        name
        for name, case in onnx_cases().items()
        if any(node.op_type in OPERATORS for node in case.model.graph.node)
    }
    assert found == set(ONNX_CASES)


@pytest.mark.parametrize("name", ONNX_CASES)
def test_node_passes_the_case_of_onnx(name):
    case = onnx_cases()[name]
    session = fo.load(case.model)
    for inputs, outputs in case.data_sets:
        names = [value.name for value in session.get_inputs()]
        results = session.run(None, dict(zip(names, inputs, strict=True)))
        for a, b in zip(results, outputs, strict=True):
            assert a.shape == b.shape and a.dtype == b.dtype
            np.testing.assert_allclose(a, b, rtol=case.rtol, atol=case.atol)


def ours(model, feeds):
    return fo.load(model.SerializeToString()).run(None, feeds)


def compare(operator, feeds, **attributes):
    """Run here and there, with weights that are constants and with weights that are fed."""
    attributes = dict(hidden_size=feeds["R"].shape[2]) | attributes
    for constants in (("W", "R", "B", "P"), ()):
        model, rest = node_model(operator, feeds, constants, **attributes)
        results = ours(model, rest)
        assert_same(results, onnxruntime_run(model, rest))
    return results


# -- what all three have -----------------------------------------------------------------------


@pytest.mark.parametrize("state", [True, False], ids=["state", "nostate"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "nobias"])
@pytest.mark.parametrize("lengths", [None, RAGGED], ids=["full", "ragged"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_node_matches_onnxruntime(operator, direction, lengths, bias, state):
    D = 1 + (direction == "bidirectional")
    feeds = random_feeds(operator, D=D, lengths=lengths, bias=bias, state=state)
    compare(operator, feeds, direction=direction)


@pytest.mark.parametrize("operator", OPERATORS)
def test_node_with_gates_in_another_order_is_told_apart(operator):
    """What makes the comparison above worth something: random weights see a swapped gate."""
    feeds = random_feeds(operator)
    G, H = GATES[operator], 6
    expected = ours(*node_model(operator, feeds, hidden_size=H))[0]
    for k in range(G - 1):
        order = [*range(k), k + 1, k, *range(k + 2, G)]
        swapped = dict(feeds)
        for name, blocks in (("W", order), ("R", order), ("B", [*order, *(n + G for n in order)])):
            a = feeds[name]
            rows = a.reshape(1, len(blocks), H, a.size // (len(blocks) * H))
            swapped[name] = rows[:, blocks].reshape(a.shape)
        y = ours(*node_model(operator, swapped, hidden_size=H))[0]
        assert np.abs(y - expected).max() > 0.01


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_node_with_layout_1_is_the_transposed_one(operator, direction):
    """ONNX Runtime refuses layout 1."""
    D = 1 + (direction == "bidirectional")
    feeds = random_feeds(operator, D=D, lengths=RAGGED)
    expected = compare(operator, feeds, direction=direction)
    batch_first = {
        name: a.swapaxes(0, 1) if name in ("X", "initial_h", "initial_c") else a
        for name, a in feeds.items() if a is not None
    }  # fmt: skip
    model, rest = node_model(operator, batch_first, direction=direction, layout=1)
    y, *states = ours(model, rest)
    assert_same([y, *states], [expected[0].transpose(2, 0, 1, 3),
                               *(s.swapaxes(0, 1) for s in expected[1:])], atol=0)  # fmt: skip


@pytest.mark.parametrize("operator", OPERATORS)
def test_node_is_zero_beyond_lengths_and_for_length_zero(operator):
    feeds = random_feeds(operator, lengths=RAGGED)
    y, *states = compare(operator, feeds)
    for b, n in enumerate(RAGGED):
        assert (y[n:, 0, b] == 0).all() and (n == 0 or (y[:n, 0, b] != 0).all())
    for s in states:
        assert (s[0, RAGGED.index(0)] == 0).all()


@pytest.mark.parametrize("operator", OPERATORS)
def test_node_in_float64_is_more_exact(operator):
    """ONNX Runtime refuses float64."""
    feeds = random_feeds(operator, lengths=RAGGED)
    double = {
        k: a if a is None or k == "sequence_lens" else a.astype("f8") for k, a in feeds.items()
    }
    single = ours(*node_model(operator, feeds, hidden_size=6))
    exact = ours(*node_model(operator, double, hidden_size=6))
    for a, b in zip(single, exact, strict=True):
        assert b.dtype == np.float64
        assert 0 < np.abs(a - b).max() < 1e-6


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize(
    "shape", [dict(T=1, B=1), dict(T=2, B=1, I=1, H=1), dict(H=33, I=17)], ids=str
)
def test_node_matches_onnxruntime_at_edges(operator, shape):
    compare(operator, random_feeds(operator, **shape))


@pytest.mark.parametrize("operator", OPERATORS)
def test_node_takes_no_steps_and_no_rows(operator):
    """ONNX Runtime ends the process here (GRU, T = 0; all, B = 0)."""
    y, *states = ours(*node_model(operator, random_feeds(operator, T=0), hidden_size=6))
    assert y.shape == (0, 1, 4, 6) and all((s == 0).all() for s in states)
    y, *states = ours(*node_model(operator, random_feeds(operator, B=0), hidden_size=6))
    assert y.shape == (7, 1, 0, 6) and all(s.shape == (1, 0, 6) for s in states)


@pytest.mark.parametrize("operator", OPERATORS)
def test_node_without_hidden_size_reads_it_off_the_weights(operator):
    feeds = random_feeds(operator)
    assert_same(
        ours(*node_model(operator, feeds)), ours(*node_model(operator, feeds, hidden_size=6)), 0
    )


@pytest.mark.parametrize("opset", [7, 13, 14, 21, 22])
@pytest.mark.parametrize("operator", OPERATORS)
def test_node_means_the_same_in_every_opset(operator, opset):
    feeds = random_feeds(operator, lengths=RAGGED)
    compare(operator, feeds, opset=opset)


# -- the LSTM's own ----------------------------------------------------------------------------

PARAMETRIC = dict(
    activations=["HardSigmoid", "Elu", "LeakyRelu"],
    activation_alpha=[0.3, 0.7, 0.2],
    activation_beta=[0.4],
)
LSTM_ATTRIBUTES = {
    "clip": dict(clip=0.8),
    "input_forget": dict(input_forget=1),
    "input_forget, clip": dict(input_forget=1, clip=0.5),
    "affine, scaled tanh": dict(
        activations=["Sigmoid", "ScaledTanh", "Affine"],
        activation_alpha=[1.7, -0.8],
        activation_beta=[0.6, 0.3],
    ),
    "softsign, softplus": dict(activations=["Sigmoid", "Softsign", "Softplus"]),
    "relu, thresholded relu": dict(
        activations=["Sigmoid", "ThresholdedRelu", "Relu"], activation_alpha=[0.4]
    ),
    "lower case": dict(activations=["sigmoid", "TANH", "relu"]),
    "parameters": PARAMETRIC,
    "default parameters": dict(activations=["HardSigmoid", "Elu", "LeakyRelu"]),
}


@pytest.mark.parametrize("peepholes", [False, True], ids=["", "peepholes"])
@pytest.mark.parametrize("lengths", [None, RAGGED], ids=["full", "ragged"])
@pytest.mark.parametrize("name", ["plain", *LSTM_ATTRIBUTES])
def test_lstm_attributes_match_onnxruntime(name, lengths, peepholes):
    feeds = random_feeds("LSTM", lengths=lengths, peepholes=peepholes)
    compare("LSTM", feeds, **LSTM_ATTRIBUTES.get(name, {}))


def test_lstm_directions_have_activations_of_their_own():
    feeds = random_feeds("LSTM", D=2, peepholes=True)
    compare(
        "LSTM", feeds, direction="bidirectional",
        activations=["Sigmoid", "Elu", "Tanh", "HardSigmoid", "Tanh", "LeakyRelu"],
        activation_alpha=[0.6, 0.3, 0.1], activation_beta=[0.4],
    )  # fmt: skip


def test_lstm_peepholes_are_in_the_order_i_o_f():
    feeds = random_feeds("LSTM", peepholes=True)
    expected = compare("LSTM", feeds)[0]
    swapped = feeds | dict(P=feeds["P"].reshape(3, 6)[[0, 2, 1]].reshape(1, 18))
    assert np.abs(compare("LSTM", swapped)[0] - expected).max() > 0.01


def test_lstm_adds_both_biases():
    feeds = random_feeds("LSTM")
    w, r = np.split(feeds["B"], 2, axis=1)
    summed = feeds | dict(B=np.concatenate([np.zeros_like(w), w + r], axis=1))
    assert_same(compare("LSTM", summed), compare("LSTM", feeds))


def test_lstm_input_forget_ignores_all_that_is_of_f():
    feeds = random_feeds("LSTM", peepholes=True)
    expected = compare("LSTM", feeds, input_forget=1)
    other = {k: a if a is None else a.copy() for k, a in feeds.items()}
    for name in "WR":
        other[name][:, 12:18] = 9
    other["B"][:, 12:18] = other["B"][:, 36:42] = 9
    other["P"][:, 12:18] = 9
    assert_same(compare("LSTM", other, input_forget=1), expected, atol=0)


def test_lstm_clip_leaves_the_cell_on_its_way_out_alone():
    """The specification can be read otherwise: with c clipped before tanh, y would be smaller."""
    feeds = random_feeds("LSTM")
    feeds["initial_c"] *= 4
    y = compare("LSTM", feeds, clip=0.3)[0]
    assert np.abs(y[0]).max() > 1 / (1 + np.exp(-0.3)) * np.tanh(0.3)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_lstm_with_any_attributes_matches_onnxruntime(data):
    draw = data.draw
    D = draw(st.sampled_from([1, 2]))
    T, B, I, H = (draw(st.integers(1, n)) for n in (5, 3, 4, 9))
    lengths = draw(st.none() | st.lists(st.integers(0, T), min_size=B, max_size=B))
    feeds = random_feeds(
        "LSTM", T, B, I, H, D, lengths, *(draw(st.booleans()) for _ in range(3)),
        seed=draw(st.integers(0, 999)),
    )  # fmt: skip
    attributes = dict(
        direction="bidirectional" if D == 2 else draw(st.sampled_from(["forward", "reverse"]))
    )
    if draw(st.booleans()):
        attributes["clip"] = draw(st.floats(0.125, 3, width=32))
    if draw(st.booleans()):
        attributes["input_forget"] = 1
    if draw(st.booleans()):
        gates = st.sampled_from(["Sigmoid", "HardSigmoid"])
        others = st.sampled_from(
            ["Tanh", "Relu", "LeakyRelu", "Elu", "Softsign", "ScaledTanh", "Sigmoid"]
        )
        names = [draw(kind) for _ in range(D) for kind in (gates, others, others)]
        alphas = [n for n in names if n in ("HardSigmoid", "LeakyRelu", "Elu", "ScaledTanh")]
        betas = [n for n in names if n in ("HardSigmoid", "ScaledTanh")]
        number = st.floats(0.125, 1, width=32)
        attributes |= dict(activations=names)
        attributes |= dict(activation_alpha=[draw(number) for _ in alphas]) if alphas else {}
        attributes |= dict(activation_beta=[draw(number) for _ in betas]) if betas else {}
    compare("LSTM", feeds, **attributes)


# -- GRU and RNN -------------------------------------------------------------------------------

GRU_ATTRIBUTES = {
    "plain": dict(),
    "clip": dict(clip=0.7),
    "activations": dict(
        activations=["HardSigmoid", "LeakyRelu"], activation_alpha=[0.3, 0.2], activation_beta=[0.4]
    ),
    "softsign": dict(activations=["Sigmoid", "Softsign"]),
}


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("after", [0, 1])
@pytest.mark.parametrize("name", GRU_ATTRIBUTES)
def test_gru_attributes_match_onnxruntime(name, after, direction):
    D = 1 + (direction == "bidirectional")
    feeds = random_feeds("GRU", D=D, lengths=RAGGED)
    attributes = {k: v * D if isinstance(v, list) else v for k, v in GRU_ATTRIBUTES[name].items()}
    compare("GRU", feeds, direction=direction, linear_before_reset=after, **attributes)


def test_gru_resets_before_or_after_the_product():
    feeds = random_feeds("GRU")
    before, after = (compare("GRU", feeds, linear_before_reset=k)[0] for k in (0, 1))
    assert np.abs(before - after).max() > 0.01


RNN_ATTRIBUTES = {
    "relu": dict(activations=["Relu"]),
    "clip": dict(clip=0.7),
    "affine": dict(activations=["Affine"], activation_alpha=[0.3], activation_beta=[0.4]),
}


@pytest.mark.parametrize("lengths", [None, RAGGED], ids=["full", "ragged"])
@pytest.mark.parametrize("name", RNN_ATTRIBUTES)
def test_rnn_attributes_match_onnxruntime(name, lengths):
    compare("RNN", random_feeds("RNN", lengths=lengths), **RNN_ATTRIBUTES[name])


# -- what is refused ---------------------------------------------------------------------------

REFUSED = {
    "direction must be one of forward, reverse, bidirectional, got 'up'": dict(direction="up"),
    "layout must be 0 or 1, got 2": dict(layout=2),
    "clip must be positive": dict(clip=0.0),
    "input_forget must be 0 or 1, got 2": dict(input_forget=2),
    "activations must be 3 names, got 2": dict(activations=["Sigmoid", "Tanh"]),
    "the activation 'Swish' is not supported": dict(activations=["Sigmoid", "Tanh", "Swish"]),
    "affine needs alpha and beta": dict(activations=["Sigmoid", "Tanh", "Affine"]),
    "alpha of output must be positive": dict(
        activations=["Sigmoid", "Tanh", "Elu"], activation_alpha=[-1.0]
    ),
    "hidden_size is 5, but R has shape": dict(hidden_size=5),
    "attribute 'linear_before_reset' is unknown": dict(linear_before_reset=1),
    "hidden_size must be of type INT, got FLOAT": dict(hidden_size=6.0),
}


@pytest.mark.parametrize("text", REFUSED)
def test_lstm_says_which_attribute_of_which_node_is_wrong(text):
    model, _ = node_model("LSTM", random_feeds("LSTM"), **REFUSED[text])
    with pytest.raises(fo.FormatError, match=rf"^the model: node 'cell' \(LSTM\): .*{text}"):
        fo.load(model)


WRONG = {
    "W must begin with 1 directions": dict(W=np.zeros((2, 24, 5), "f4")),
    "onnx R must have shape": dict(W=np.zeros((1, 20, 5), "f4")),
    "onnx B must have shape": dict(B=np.zeros((1, 24), "f4")),
    "R is float64|is float32 but": dict(R=np.zeros((1, 24, 6))),
    "X must have 5 features, got 4": dict(X=np.zeros((7, 4, 4), "f4")),
    "X must have 3 dimensions": dict(X=np.zeros((7, 4), "f4")),
    "X is float64, but W is float32": dict(X=np.zeros((7, 4, 5))),
    r"initial_h must be float32 with \(D, B, H\)": dict(initial_h=np.zeros((4, 6), "f4")),
    "initial_c must be float32": dict(initial_c=np.zeros((1, 4, 6))),
    r"lengths\[1\] must be in \[0, T\] = \[0, 7\], got 8": dict(
        sequence_lens=np.array([1, 8, 1, 1], np.int32)
    ),
    r"lengths must have shape \(B,\)": dict(sequence_lens=np.array([1], np.int32)),
}


def test_gru_says_which_attribute_is_wrong():
    model, _ = node_model("GRU", random_feeds("GRU"), linear_before_reset=2)
    with pytest.raises(fo.FormatError, match=r"\(GRU\): linear_before_reset must be 0 or 1, got 2"):
        fo.load(model)


@pytest.mark.parametrize("text", WRONG)
def test_lstm_says_which_input_of_which_node_is_wrong(text):
    model, feeds = node_model("LSTM", random_feeds("LSTM") | WRONG[text], hidden_size=6)
    with pytest.raises(fo.FormatError, match=rf"node 'cell' \(LSTM\): .*({text})"):
        fo.load(model).run(None, feeds)
