# SPDX-License-Identifier: MIT
"""Pictures of gates and gradients: what is drawn is what was computed."""

import numpy as np
import pytest

import fastlstm as fl
from fastlstm import plot
from fastlstm.plot import gates_over_time, gradient_flow, gradient_norms

figure = pytest.importorskip("matplotlib.figure")


@pytest.fixture
def tape():
    """Of three rows of different length, in reverse."""
    rng = np.random.default_rng(0)
    x, w_ih, w_hh = (rng.standard_normal(s) for s in [(7, 3, 2), (20, 2), (20, 5)])
    return fl.lstm_forward(x, w_ih, w_hh, lengths=[7, 4, 0], reverse=True)[2]


def drawn(ax):
    return {line.get_label(): line.get_ydata() for line in ax.lines}


def test_plot_gates_of_one_unit(tape):
    inputs, gates, values = gates_over_time(tape, row=1, unit=3, figure=figure.Figure())
    np.testing.assert_array_equal([line.get_ydata() for line in inputs.lines],
                                  tape.inputs.x[:4, 1].T)  # fmt: skip
    i, f, g, o = np.moveaxis(tape.gates[:4, 1, :, 3], 1, 0)
    curves = drawn(gates)
    for name, a in {"input gate $i$": i, "forget gate $f$": f, "output gate $o$": o}.items():
        np.testing.assert_array_equal(curves[name], a)
    curves = drawn(values)
    np.testing.assert_array_equal(curves["candidate $g$"], g)
    np.testing.assert_array_equal(curves["cell $c$"], tape.c[:4, 1, 3])  # reverse: slot t
    np.testing.assert_allclose(curves["output $h$"], o * np.tanh(tape.c[:4, 1, 3]))


def test_plot_gates_of_all_units(tape):
    axes = gates_over_time(tape, figure=figure.Figure())
    images = {ax.get_title()[-2]: ax.images[0] for ax in axes}
    assert list(images) == list("ifogch")
    for k, name in enumerate("ifgo"):
        np.testing.assert_array_equal(images[name].get_array(), tape.gates[:, 0, k].T)
    np.testing.assert_array_equal(images["c"].get_array(), tape.c[:-1, 0].T)
    assert images["f"].get_clim() == (0, 1)
    low, high = images["c"].get_clim()
    assert low == -high == -np.abs(tape.c[:-1, 0]).max()


def test_plot_gates_of_a_layer_and_of_its_tape():
    lstm = fl.LSTM(3, 8, num_layers=2, bidirectional=True, seed=0)
    x = np.random.default_rng(0).standard_normal((6, 2, 3)).astype("f")
    _, _, tape = lstm.forward(x)
    cell = tape.tapes[1][1]
    for given in ((tape,), (lstm, x)):
        axes = gates_over_time(*given, layer=1, direction=1, row=1, unit=2, figure=figure.Figure())
        assert len(axes) == 2  # an input of 16 numbers is not drawn
        np.testing.assert_array_equal(drawn(axes[1])["cell $c$"], cell.c[:-1, 1, 2])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(row=3), ValueError, "row must be less than B = 3, got 3"),
        (dict(row=2), ValueError, "row 2 has no step"),
        (dict(row=-1), ValueError, "row must be at least 0, got -1"),
        (dict(unit=5), ValueError, "unit must be less than H = 5, got 5"),
        (dict(x=np.ones(3)), TypeError, "x is given with a tape, which has its own input"),
        (dict(source=fl.LSTM(2, 3)), TypeError, "x is missing: gates_over_time runs the layer on "
         "it"),
        (dict(source=None), TypeError, "source must be a Tape, an LSTMTape or an LSTM, got "
         "NoneType"),
        (dict(source=fl.GRU(2, 3).forward(np.ones((4, 1, 2), "f"))[2].tapes[0][0]), TypeError,
         "source must be a Tape, an LSTMTape or an LSTM, got SiblingTape"),
    ],
)  # fmt: skip
def test_plot_gates_refuses(tape, change, error, message):
    picture = figure.Figure()
    with pytest.raises(error) as fault:
        gates_over_time(**{"source": tape, "figure": picture} | change)
    assert str(fault.value) == message
    assert not picture.axes


def test_plot_gates_refuses_a_consumed_tape(tape):
    fl.lstm_backward(tape)
    with pytest.raises(RuntimeError, match="overwritten by lstm_backward"):
        gates_over_time(tape, figure=figure.Figure())


@pytest.mark.parametrize("batch_first", [False, True])
def test_plot_gradient_norms_are_those_of_backward(batch_first):
    """At lag k: the gradient with respect to the initial state of the last k steps."""
    T, lstm = 9, fl.LSTM(3, 5, num_layers=2, dtype="float64", seed=1, batch_first=batch_first)
    x = np.random.default_rng(0).standard_normal((T, 4, 3))
    given = x.swapaxes(0, 1) if batch_first else x
    norms = gradient_norms(lstm, given, seed=3)
    shape = (4, 1, 5) if batch_first else (1, 4, 5)
    last = np.random.default_rng(3).standard_normal(shape)
    last /= np.linalg.norm(last)
    assert norms.shape == (T + 1,)
    assert norms[0] == 1
    steps = fl.LSTM(3, 5, num_layers=2, dtype="float64")
    steps.load_state_dict(lstm.state_dict())
    for k in (1, 4, T):
        state = steps(x[: T - k])[1] if k < T else None
        y, _, tape = steps.forward(x[T - k :], state)
        dy = np.zeros_like(y)
        dy[-1] = last.reshape(4, 5)
        _, (dh, dc), _ = steps.backward(tape, dy)
        assert norms[k] == pytest.approx(np.sqrt((dh**2).sum() + (dc**2).sum()), rel=1e-12)


def test_plot_gradient_of_an_open_forget_gate_is_carried():
    """The point of the LSTM: with f near 1 the gradient survives 100 steps, with f = 1/2 not."""
    x = np.random.default_rng(0).standard_normal((100, 4, 3))
    last = {}
    for bias in (0, 3):
        lstm = fl.LSTM(3, 32, dtype="float64", seed=0)
        lstm.parameters()["bias_l0"][32:64] = bias
        last[bias] = gradient_norms(lstm, x)[-1]
    assert last[0] < 1e-10
    assert 1e-3 < last[3] < 1e3


@pytest.mark.parametrize("kind", [fl.RNN, fl.GRU, fl.SLSTM])
def test_plot_gradient_norms_of_other_layers(kind):
    """Against differences: L = <u, y[-1]> along the gradient with respect to the initial state."""
    layer, rng = kind(3, 4, dtype="float64", seed=1), np.random.default_rng(0)
    x, u = rng.standard_normal((6, 2, 3)), np.random.default_rng(3).standard_normal((1, 2, 4))
    u /= np.linalg.norm(u)
    state, h = layer.forward(x[:1])[1], 1e-6
    norms = gradient_norms(layer, x, seed=3)
    parts = state if isinstance(state, tuple) else (state,)
    slopes = []
    for k, part in enumerate(parts):
        for at in np.ndindex(part.shape):
            values = []
            for step in (h, -h):
                moved = [p.copy() for p in parts]
                moved[k][at] += step
                y, _ = layer(x[1:], tuple(moved) if len(moved) > 1 else moved[0])
                values.append((u * y[-1]).sum())
            slopes.append((values[0] - values[1]) / (2 * h))
    assert norms[5] == pytest.approx(np.linalg.norm(slopes), rel=1e-6)


def test_plot_gradient_flow_draws_norms_and_layers():
    ax = figure.Figure().add_subplot()
    lstm, x = fl.LSTM(3, 5, seed=0), np.ones((6, 2, 3), "f")
    assert gradient_flow({"a": [1, 0.1, 0.0], "b": lstm}, x, ax=ax) is ax
    curves = drawn(ax)
    np.testing.assert_array_equal(curves["a"], [1, 0.1, np.nan])
    np.testing.assert_array_equal(curves["b"], gradient_norms(lstm, x))
    assert ax.get_yscale() == "log"
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["a", "b"]
    alone = gradient_flow(lstm, x, ax=figure.Figure().add_subplot())
    assert alone.get_legend() is None


@pytest.mark.parametrize(
    ("flows", "x", "error", "message"),
    [
        ({"a": fl.LSTM(3, 5)}, None, TypeError, "x is missing: gradient_flow runs a on it"),
        ({"a": [[1.0]]}, None, ValueError, "norms must have shape (n,), got (1, 1)"),
        (fl.LSTM(3, 5, bidirectional=True), np.ones((3, 2, 3), "f"), ValueError,
         "layer must run in one direction, got bidirectional=True"),
        (fl.LSTM(3, 5), np.ones((0, 2, 3), "f"), ValueError,
         "x must have a step or more, got T = 0"),
        (fl.LSTM(3, 5), np.ones(3, "f"), ValueError,
         "x must have 2 or 3 dimensions, got shape (3,)"),
    ],
)  # fmt: skip
def test_plot_gradient_flow_refuses(flows, x, error, message):
    ax = figure.Figure().add_subplot()
    with pytest.raises(error) as fault:
        gradient_flow(flows, x, ax=ax)
    assert str(fault.value) == message
    assert not ax.lines


def test_plot_gates_are_in_plot():
    assert {"gates_over_time", "gradient_flow", "gradient_norms"} <= set(plot.__all__)


def test_plot_gates_make_their_own_figures():
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    axes = gates_over_time(fl.LSTM(2, 3), np.ones((4, 1, 2), "f"))
    assert axes[0].figure is not gradient_flow([1.0, 0.5]).figure
    pyplot.close("all")
