# SPDX-License-Identifier: MIT
"""The norm penalty: its value and its gradient, from single steps of the reference."""

import numpy as np
import pytest

from fastlstm import (
    GRU,
    LSTM,
    RNN,
    SLSTM,
    Dense,
    LastState,
    Sequential,
    Spec,
    backend,
    fit,
    losses,
    lstm_backward,
    lstm_forward,
    optim,
    reference,
)
from fastlstm.norm_penalty import NormPenalty

H, I, T = 5, 3, 6


@pytest.fixture
def rng():
    return np.random.default_rng(31)


def layer(lengths=None, **arguments):
    return LSTM(I, H, batch_first=True, dtype="float64", seed=2, **arguments)


def looked(lstm, x, dy, dstate, lengths, state):
    """(Omega, the gradient that it adds) for one layer alone."""
    _, _, tape = lstm.forward(x, state=state, lengths=lengths)
    penalty = NormPenalty()
    penalty.look("", lstm, tape, dy, dstate)
    _, _, grads = lstm.backward(tape, dy, dstate)
    before = grads.flat.copy()
    omega = penalty.add(grads, 0.5)
    grads.flat -= before
    return omega, grads


class Step:
    """One step of a cell back in time, for one row: e[t], and what it makes of the step before."""

    def __init__(self, weights, x_t, before, e):
        self.w_hh = weights["w_hh"]
        b = np.zeros(len(self.w_hh)) if weights["b"] is None else weights["b"]
        _, _, tape = reference.lstm_forward(x_t[None], **{**weights, "b": b}, state=before)
        self.e = e
        _, (self.h, self.c), grads = reference.lstm_backward(tape, None, e)
        self.da = grads["b"]  # of one row and one step: the error at the gates' arguments

    def ratio(self, w_hh):
        """|e ds| / |e| where only the product with the recurrent weights sees ``w_hh``."""
        arrives = np.concatenate((self.da @ w_hh, self.c[0]))
        return np.linalg.norm(arrives) / np.linalg.norm(np.concatenate([a[0] for a in self.e]))


def steps_of_row(weights, x, state, dy, dstate):
    """The steps T-1, ..., 1 of one row x (T, I): from tails of the sequence, computed apart."""
    w = {k: v for k, v in weights.items() if v is not None}
    steps = []
    for t in range(len(x) - 1, 0, -1):
        _, (h, c), _ = reference.lstm_forward(x[: t + 1, None], **w, state=state)
        e_h, e_c = (np.copy(d) for d in dstate)
        if t + 1 < len(x):  # what the later steps send back to the state after step t
            _, _, tape = reference.lstm_forward(x[t + 1 :, None], **w, state=(h, c))
            _, (e_h, e_c), _ = reference.lstm_backward(tape, dy[t + 1 :, None], dstate)
        _, before, _ = reference.lstm_forward(x[:t, None], **w, state=state)
        steps.append(Step(weights, x[t, None], before, (e_h + dy[t, None], e_c)))
    return steps


def expected(weights, x, dy, state, dstate, lengths, w_hh):
    """Omega as a function of the recurrent weights, all else fixed."""
    B, total = len(x), 0.0
    for b in range(B):
        n = lengths[b]
        row = (x[b, :n], [s[:, b] for s in state], dy[b, :n], [d[:, b] for d in dstate])
        total += sum((step.ratio(w_hh) - 1) ** 2 for step in steps_of_row(weights, *row))
    return total / B


VARIANTS = {
    "peepholes": Spec(peepholes="ifo"),
    "peephole-o": Spec(peepholes="o"),
    "coupled": Spec(coupled=True, peepholes="i"),
    "no-input-gate": Spec(input_gate=False),
    "no-forget-gate": Spec(forget_gate=False),
    "no-output-gate": Spec(output_gate=False),
    "activations": Spec(gate=("hard_sigmoid", 0.2, 0.5), candidate="softsign", output="relu"),
    "cell-clip": Spec(cell_clip=0.4, peepholes="ifo"),
    "clip": Spec(clip=0.3, output="identity"),
}
CASES = {
    "plain": {}, "ragged": {}, "proj": {"proj_size": 2}, "nobias": {"bias": False},
    "peepholes-proj": {"spec": Spec(peepholes="io"), "proj_size": 3},
    **{name: {"spec": spec} for name, spec in VARIANTS.items()},
}  # fmt: skip


@pytest.fixture(params=list(backend.implementations()))
def implementation(request, monkeypatch):
    """Layers run on the reference, and on the engine of each instruction set."""
    if request.param == "reference":
        monkeypatch.setenv("FASTLSTM_BACKEND", "reference")
    with backend.using_isa("none" if request.param == "reference" else request.param):
        yield request.param


def assert_derivative(found, expected, w_hh, d=1e-6):
    """``found`` is half (the strength) of the derivative of expected(w_hh), by differences."""
    for index in [(0, 0), (H + 1, 1), (2 * H + 3, 0), (len(w_hh) - 1, 1)]:
        high, low = (w_hh.copy() for _ in range(2))
        high[index] += d
        low[index] -= d
        slope = (expected(high) - expected(low)) / (2 * d)
        assert found[index] == pytest.approx(0.5 * slope, rel=1e-6, abs=1e-9)
    assert np.abs(found).max() > 1e-3


@pytest.mark.parametrize("case", CASES)
def test_norm_penalty_and_its_immediate_derivative(case, implementation, rng):
    lstm = layer(**CASES[case])
    lengths = np.array([4, 0, T, 1]) if case == "ragged" else np.full(4, T)
    P = lstm.proj_size or H
    x, dy = rng.normal(size=(4, T, I)), rng.normal(size=(4, T, P))
    state = rng.normal(size=(1, 4, P)), rng.normal(size=(1, 4, H))
    dstate = rng.normal(size=(1, 4, P)), rng.normal(size=(1, 4, H))
    omega, grads = looked(lstm, x, dy, dstate, lengths if case == "ragged" else None, state)
    (weights,) = lstm.cell_weights()
    if "cell-clip" in case:
        assert 0.1 < (np.abs(lstm.forward(x, state)[2].tapes[0][0].c[1:]) == 0.4).mean() < 0.9
    weights = {**weights, "spec": lstm.spec}
    arguments = weights, x, dy, state, dstate, lengths
    assert omega == pytest.approx(expected(*arguments, weights["w_hh"]), rel=1e-10)
    assert_derivative(grads["weight_hh_l0"], lambda w: expected(*arguments, w), weights["w_hh"])
    others = [name for name in grads if name != "weight_hh_l0"]
    assert not any(grads[name].any() for name in others)


GRUS = {
    "plain": {}, "ragged": {}, "nobias": {"bias": False}, "published": {"reset_after": False},
    "published-ragged": {"reset_after": False}, "clip": {"clip": 0.3},
    "activations": {"gate": ("hard_sigmoid", 0.2, 0.5), "candidate": "softsign"},
}  # fmt: skip


def gru_omega(gru, x, dy, h0, dh_n, lengths, w_hh):
    """Omega as a function of the recurrent weights, all else fixed, from single steps."""
    (weights,) = gru.cell_weights()
    old = weights["w_hh"]
    weights |= {b: np.zeros(3 * H) for b in ("b_ih", "b_hh") if weights.get(b) is None}
    options = {name: getattr(gru, name) for name in ("reset_after", "gate", "candidate", "clip")}
    total = 0.0
    for b, n in enumerate(lengths):
        e, hs = dh_n[b : b + 1], [h0[b : b + 1]]
        for t in range(n):
            step = x[b : b + 1, t][None]
            hs.append(reference.gru_forward(step, **weights, state=hs[-1], **options)[1])
        for t in reversed(range(1, n)):
            e = e + dy[b : b + 1, t]
            step = x[b : b + 1, t][None]
            _, _, tape = reference.gru_forward(step, **weights, state=hs[t], **options)
            r = tape.gates[0, :, 0].copy()  # going back overwrites it
            _, back, grads = reference.gru_backward(tape, None, e)
            arrives, more = back[0], w_hh - old  # what this much more of the weights would add
            if gru.reset_after:
                arrives = arrives + grads["b_hh"] @ more
            else:
                rz, n_ = np.split(grads["b_ih"], [2 * H])
                arrives = arrives + rz @ more[: 2 * H] + r[0] * (n_ @ more[2 * H :])
            total += (np.linalg.norm(arrives) / np.linalg.norm(e) - 1) ** 2
            e = back
    return total / len(x)


@pytest.mark.parametrize("case", GRUS)
def test_norm_penalty_of_a_gru(case, implementation, rng):
    gru = GRU(I, H, batch_first=True, dtype="float64", seed=2, **GRUS[case])
    lengths = np.array([4, 0, T, 1]) if "ragged" in case else np.full(4, T)
    x, dy = rng.normal(size=(4, T, I)), rng.normal(size=(4, T, H))
    h0, dh_n = rng.normal(size=(2, 1, 4, H))
    omega, grads = looked(gru, x, dy, dh_n, lengths if "ragged" in case else None, h0)
    w_hh = gru.parameters()["weight_hh_l0"].copy()
    arguments = gru, x, dy, h0[0], dh_n[0], lengths
    assert omega == pytest.approx(gru_omega(*arguments, w_hh), rel=1e-10)
    assert_derivative(grads["weight_hh_l0"], lambda w: gru_omega(*arguments, w), w_hh)
    assert not any(grads[name].any() for name in grads if name != "weight_hh_l0")


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("make", [LSTM, GRU, RNN])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_norm_penalty_is_the_same_by_all_implementations(make, bidirectional, dtype, rng):
    """Two layers, ragged rows; H no multiple of a vector's width."""
    lengths, D = np.array([0, 7, 3, 9, 9]), 1 + bidirectional
    x, dy = rng.normal(size=(5, 9, I)), rng.normal(size=(5, 9, D * 19))
    found = {}
    for isa in backend.implementations():
        name = "reference" if isa == "reference" else "engine"
        stack = make(I, 19, 2, batch_first=True, bidirectional=bidirectional, dtype=dtype, seed=2,
                     backend=name)  # fmt: skip
        with backend.using_isa("none" if isa == "reference" else isa):
            found[isa] = looked(stack, x.astype(dtype), dy.astype(dtype), None, lengths, None)
    omega, grads = found.pop("reference")
    rtol = 2000 * float(np.finfo(dtype).eps)  # differences of ratios near 1, squared
    for theirs, more in found.values():
        assert theirs == pytest.approx(omega, rel=rtol)
        scale = np.abs(grads.flat).max()
        np.testing.assert_allclose(more.flat, grads.flat, rtol=rtol, atol=rtol * scale)


def test_norm_penalty_of_the_reverse_direction_is_that_of_reversed_time(rng):
    both = layer(bidirectional=True)
    one = layer()
    for name, w in one.parameters().items():
        w[...] = both.parameters()[name + "_reverse"]
    lengths = np.array([3, T])
    x, dy = rng.normal(size=(2, T, I)), rng.normal(size=(2, T, 2 * H))
    dy[:, :, :H] = 0  # the forward direction gets no error
    flipped = [np.zeros((2, T, n)) for n in (I, H)]
    for b, n in enumerate(lengths):
        flipped[0][b, :n], flipped[1][b, :n] = x[b, :n][::-1], dy[b, :n, H:][::-1]
    omega, grads = looked(both, x, dy, None, lengths, None)
    mirrored, theirs = looked(one, *flipped, None, lengths, None)
    assert omega == pytest.approx(mirrored, rel=1e-12)
    np.testing.assert_allclose(
        grads["weight_hh_l0_reverse"], theirs["weight_hh_l0"], rtol=1e-9, atol=1e-12
    )
    assert not grads["weight_hh_l0"].any()


def test_norm_penalty_of_stacked_layers_is_the_sum_of_the_layers(rng):
    stack = LSTM(I, H, 2, dropout=0.5, batch_first=True, dtype="float64", seed=2)
    x, dy = rng.normal(size=(3, T, I)), rng.normal(size=(3, T, H))
    _, _, tape = stack.forward(x, rng=np.random.default_rng(1))
    mask = tape.masks[0].swapaxes(0, 1)
    penalty = NormPenalty()
    penalty.look("", stack, tape, dy, None)
    _, _, grads = stack.backward(tape, dy)
    grads.flat[...] = 0
    omega = penalty.add(grads, 0.5)
    layers = [LSTM(n, H, batch_first=True, dtype="float64") for n in (I, H)]
    for k, lstm in enumerate(layers):
        for name, w in lstm.parameters().items():
            w[...] = stack.parameters()[name.replace("l0", f"l{k}")]
    between = layers[0](x)[0] * mask
    upper, of_upper = looked(layers[1], between, dy, None, None, None)
    dx = layers[1].backward(layers[1].forward(between)[2], dy)[0]
    lower, of_lower = looked(layers[0], x, dx * mask, None, None, None)
    assert omega == pytest.approx(lower + upper, rel=1e-10)
    for k, theirs in enumerate((of_lower, of_upper)):
        np.testing.assert_allclose(grads[f"weight_hh_l{k}"], theirs["weight_hh_l0"], rtol=1e-9)


def test_norm_penalty_of_an_rnn_is_the_papers(rng):
    """h[t] = tanh(a[t]), so e[t] comes back as e[t] diag(1 - h[t]**2) W_hh: loops over rows."""
    rnn = RNN(I, H, batch_first=True, dtype="float64", seed=2)
    lengths = np.array([4, 0, T])
    x, dy, dh_n = (rng.normal(size=s) for s in [(3, T, I), (3, T, H), (1, 3, H)])
    omega, grads = looked(rnn, x, dy, dh_n, lengths, None)
    y, _ = rnn(x, lengths=lengths)
    w_hh, total, dw = rnn.parameters()["weight_hh_l0"], 0.0, np.zeros((H, H))
    for b, n in enumerate(lengths):
        e = dh_n[0, b]
        for t in reversed(range(1, n)):
            e = e + dy[b, t]
            da = e * (1 - y[b, t] ** 2)
            back = da @ w_hh
            ratio = np.linalg.norm(back) / np.linalg.norm(e)
            total += (ratio - 1) ** 2
            scale = 2 * (ratio - 1) / (np.linalg.norm(e) * np.linalg.norm(back))
            dw += scale * np.outer(da, back)
            e = back
    assert omega == pytest.approx(total / 3, rel=1e-10)
    np.testing.assert_allclose(grads["weight_hh_l0"], 0.5 * dw / 3, rtol=1e-9)


def test_norm_penalty_says_nothing_where_no_error_arrives(rng):
    lstm = layer()
    x = rng.normal(size=(2, T, I))
    omega, grads = looked(lstm, x, np.zeros((2, T, H)), None, None, None)
    assert omega == 0
    assert not grads.flat.any()


def model(**arguments):
    return Sequential([layer(**arguments), LastState(), Dense(H, 1, dtype="float64", seed=0)])


def test_fit_with_the_norm_penalty_brings_it_down(rng):
    x, y = rng.normal(size=(64, 20, I)), rng.normal(size=(64, 1))
    omegas = []
    for strength in (1e-12, 1.0):
        adam = optim.Adam(0.003)
        history = fit(model(), x, y, epochs=30, optimizer=adam, norm_penalty=strength, seed=0)
        omegas.append(history["norm_penalty"])
    (first, *_, free), (_, *_, held) = omegas
    assert free > 1.2 * first  # it grows where nobody minds
    assert held < 0.7 * free


def test_fit_takes_the_gradient_of_loss_and_penalty(rng):
    x, y = rng.normal(size=(4, T, I)), rng.normal(size=(4, 1))
    ours, twin = model(), model()
    kept = twin.flat.copy()
    history = fit(ours, x, y, epochs=1, optimizer="sgd", norm_penalty=0.3, shuffle=False)
    prediction, tape = twin.forward(x)
    value, dy = losses.squared_error(prediction, y)
    penalty = NormPenalty()
    _, grads = twin.backward(tape, dy, watch=penalty.look)
    omega = penalty.add(grads, 0.3)
    np.testing.assert_allclose(ours.flat, kept - 0.01 * grads.flat, rtol=1e-12)
    assert history["norm_penalty"] == [pytest.approx(omega)]
    assert history["loss"] == [pytest.approx(value)]  # that of the data alone


def test_norm_penalty_refusals(rng):
    x, y = rng.normal(size=(4, 2)), rng.normal(size=(4, 1))
    head = Sequential([Dense(2, 1, dtype="float64")])
    with pytest.raises(TypeError, match="norm_penalty needs a Sequential with a recurrent layer"):
        fit(head, x, y, epochs=1, norm_penalty=0.1)
    with pytest.raises(ValueError, match="norm_penalty must not be negative, got -1"):
        fit(head, x, y, epochs=1, norm_penalty=-1)
    x = rng.normal(size=(4, T, I))
    specs = [
        {"layer_norm": True}, {"full_gate_recurrence": True}, {"zoneout_h": 0.1},
        {"zoneout_c": 0.1}, {"recurrent_dropout": 0.1}, {"weight_drop": 0.1},
    ]  # fmt: skip
    others = [layer(spec=Spec(**fields)) for fields in specs]
    others.append(SLSTM(I, H, batch_first=True, dtype="float64"))
    for other in others:
        unknown = Sequential([other, LastState(), Dense(H, 1, dtype="float64")])
        with pytest.raises(NotImplementedError, match="norm_penalty is for RNN, GRU and LSTM"):
            fit(unknown, x, y, epochs=1, norm_penalty=0.1)


def test_gradients_of_the_gates_are_there_after_the_backward_pass_only(rng):
    x, w_ih, w_hh = (
        rng.normal(size=(T, 2, I)),
        rng.normal(size=(4 * H, I)),
        rng.normal(size=(4 * H, H)),
    )
    y, _, tape = lstm_forward(x, w_ih, w_hh)
    with pytest.raises(RuntimeError, match="are there after lstm_backward"):
        _ = tape.dgates
    _, _, grads = lstm_backward(tape, np.ones_like(y))
    da = tape.dgates.reshape(T * 2, 4 * H)
    np.testing.assert_allclose(da.T @ x.reshape(T * 2, I), grads["w_ih"], rtol=1e-10, atol=1e-12)
