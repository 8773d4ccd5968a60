# SPDX-License-Identifier: MIT
"""The layouts of GRU and simple recurrent cells, against each framework's cell, as transcribed.

All weights are random. The LSTM's: test_weights.py.
"""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from framework_cells import B, H, I, sigmoid
from hypothesis import given, settings
from hypothesis import strategies as st
from test_weights import plain, randomised

from fastlstm.weights import CELLS, from_layout, to_layout

# ---- our cells, and those of the frameworks: (their arrays, x, h) -> h


def gru(w, x, h, reset_after=True):
    (ir, iz, i_n), (hr, hz, hn) = np.split(x @ w["w_ih"].T, 3, 1), np.split(h @ w["w_hh"].T, 3, 1)
    br, bz, bn = np.split(w.get("b_ih", np.zeros(3 * H)), 3)
    cr, cz, cn = np.split(w.get("b_hh", np.zeros(3 * H)), 3)
    r, z = sigmoid(ir + br + hr + cr), sigmoid(iz + bz + hz + cz)
    if reset_after:
        n = np.tanh(i_n + bn + r * (hn + cn))
    else:
        n = np.tanh(i_n + bn + (r * h) @ w["w_hh"][2 * H :].T + cn)
    return (1 - z) * n + z * h


def gru_pytorch(w, x, h):
    gi = x @ w["weight_ih"].T + w.get("bias_ih", 0)
    gh = h @ w["weight_hh"].T + w.get("bias_hh", 0)
    (i_r, i_i, i_n), (h_r, h_i, h_n) = np.split(gi, 3, 1), np.split(gh, 3, 1)
    resetgate, inputgate = sigmoid(i_r + h_r), sigmoid(i_i + h_i)
    newgate = np.tanh(i_n + resetgate * h_n)
    return newgate + inputgate * (h - newgate)


def gru_keras(w, x, h):
    input_bias, recurrent_bias = w.get("bias", np.zeros((2, 3 * H)))
    x_z, x_r, x_h = np.split(x @ w["kernel"] + input_bias, 3, 1)
    r_z, r_r, r_h = np.split(h @ w["recurrent_kernel"] + recurrent_bias, 3, 1)
    z, r = sigmoid(x_z + r_z), sigmoid(x_r + r_r)
    hh = np.tanh(x_h + r * r_h)
    return z * h + (1 - z) * hh


def gru_keras_reset_before(w, x, h):
    U = w["recurrent_kernel"]
    x_z, x_r, x_h = np.split(x @ w["kernel"] + w.get("bias", np.zeros(3 * H)), 3, 1)
    z, r = sigmoid(x_z + h @ U[:, :H]), sigmoid(x_r + h @ U[:, H : 2 * H])
    hh = np.tanh(x_h + (r * h) @ U[:, 2 * H :])
    return z * h + (1 - z) * hh


def gru_onnx(w, x, h):
    """linear_before_reset = 1."""
    Wz, Wr, Wh = np.split(w["W"][0], 3)
    Rz, Rr, Rh = np.split(w["R"][0], 3)
    Wbz, Wbr, Wbh, Rbz, Rbr, Rbh = np.split(w.get("B", np.zeros((1, 6 * H)))[0], 6)
    zt = sigmoid(x @ Wz.T + h @ Rz.T + Wbz + Rbz)
    rt = sigmoid(x @ Wr.T + h @ Rr.T + Wbr + Rbr)
    ht = np.tanh(x @ Wh.T + rt * (h @ Rh.T + Rbh) + Wbh)
    return (1 - zt) * ht + zt * h


def gru_flax(w, x, h):
    def dense_i(k):
        return x @ w["i" + k]["kernel"] + w["i" + k]["bias"]

    r = sigmoid(dense_i("r") + h @ w["hr"]["kernel"])
    z = sigmoid(dense_i("z") + h @ w["hz"]["kernel"])
    n = np.tanh(dense_i("n") + r * (h @ w["hn"]["kernel"] + w["hn"]["bias"]))
    return (1.0 - z) * n + z * h


def gru_equinox(w, x, h):
    igates = np.split(x @ w["weight_ih"].T + w.get("bias", 0), 3, 1)
    hgates = np.split(h @ w["weight_hh"].T, 3, 1)
    reset, inp = sigmoid(igates[0] + hgates[0]), sigmoid(igates[1] + hgates[1])
    new = np.tanh(igates[2] + reset * (hgates[2] + w.get("bias_n", 0)))
    return new + inp * (h - new)


def gru_rtneural(w, x, h):
    W, U, b = map(np.array, w["weights"])
    z, r, c = (slice(k * H, (k + 1) * H) for k in range(3))
    zv = sigmoid(x @ W[:, z] + b[0, z] + h @ U[:, z] + b[1, z])
    rv = sigmoid(x @ W[:, r] + b[0, r] + h @ U[:, r] + b[1, r])
    cv = np.tanh(x @ W[:, c] + b[0, c] + rv * (h @ U[:, c] + b[1, c]))
    return (1 - zv) * cv + zv * h


def rnn(w, x, h):
    return np.tanh(x @ w["w_ih"].T + h @ w["w_hh"].T + w.get("b", 0))


def rnn_pytorch(w, x, h):
    biases = w.get("bias_ih", 0) + w.get("bias_hh", 0)
    return np.tanh(x @ w["weight_ih"].T + h @ w["weight_hh"].T + biases)


def rnn_keras(w, x, h):
    return np.tanh(x @ w["kernel"] + w.get("bias", 0) + h @ w["recurrent_kernel"])


def rnn_onnx(w, x, h):
    Wbi, Rbi = np.split(w.get("B", np.zeros((1, 2 * H)))[0], 2)
    return np.tanh(x @ w["W"][0].T + h @ w["R"][0].T + Wbi + Rbi)


THEIRS = {
    "gru": {
        "pytorch": gru_pytorch,
        "keras": gru_keras,
        "keras_reset_before": gru_keras_reset_before,
        "onnx": gru_onnx,
        "flax": gru_flax,
        "equinox": gru_equinox,
        "rtneural": gru_rtneural,
    },
    "rnn": {"pytorch": rnn_pytorch, "keras": rnn_keras, "onnx": rnn_onnx},
}
ALL = [(cell, name) for cell, table in THEIRS.items() for name in table]
VARIANTS = [
    (cell, name, bias)
    for cell, name in ALL
    for bias in (True, False)
    if bias or CELLS[cell][name].bias_optional
]


def ours(cell, name):
    if cell == "rnn":
        return rnn
    return lambda w, x, h: gru(w, x, h, CELLS["gru"][name].reset_after)


def random_weights(cell, seed=0, sizes=(I, H), bias=True, dtype="f8"):
    (i, h), n, rng = sizes, {"gru": 3, "rnn": 1}[cell], np.random.default_rng(seed)
    biases = {"gru": ["b_ih", "b_hh"], "rnn": ["b"]}[cell] if bias else []
    shapes = {"w_ih": (n * h, i), "w_hh": (n * h, h)} | dict.fromkeys(biases, (n * h,))
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


def foreign(cell, name, bias=True, seed=1):
    template = to_layout(name, random_weights(cell, bias=bias), cell=cell)
    return randomised(template, np.random.default_rng(seed))


def run(step, w, seed=9):
    rng = np.random.default_rng(seed)
    h, states = rng.standard_normal((B, H)), []
    for x in rng.standard_normal((5, B, I)):
        states.append(h := step(w, x, h))
    return np.stack(states)


def test_every_layout_has_a_cell():
    assert {cell: set(table) for cell, table in THEIRS.items()} == {
        cell: set(table) for cell, table in CELLS.items() if cell != "lstm"
    }


@pytest.mark.parametrize(("cell", "name", "bias"), VARIANTS)
def test_both_ways_compute_the_same(cell, name, bias):
    arrays, w = foreign(cell, name, bias), random_weights(cell, 3, bias=bias)
    step, theirs = ours(cell, name), THEIRS[cell][name]
    np.testing.assert_allclose(
        run(step, from_layout(name, arrays, cell=cell)), run(theirs, arrays), rtol=1e-11
    )
    np.testing.assert_allclose(
        run(theirs, to_layout(name, w, cell=cell)), run(step, w), rtol=1e-10, atol=1e-13
    )


@pytest.mark.parametrize("name", CELLS["gru"])
@pytest.mark.parametrize("swap", list(combinations("rzn", 2)), ids="".join)
def test_a_swapped_gate_is_seen(name, swap, monkeypatch):
    arrays, right = foreign("gru", name), CELLS["gru"][name]
    texts, (a, b) = {}, (f"[{k}]" for k in swap)
    for path, text in right.arrays.items():
        other = text.replace(a, "[?]").replace(b, a).replace("[?]", b)
        texts[path] = text if text.startswith("b_hh") else other
    gates = right.gates.translate(str.maketrans("".join(swap), "".join(swap[::-1])))
    monkeypatch.setitem(CELLS["gru"], name, replace(right, gates=gates, arrays=texts))
    difference = run(ours("gru", name), from_layout(name, arrays, cell="gru"))
    assert np.abs(difference - run(THEIRS["gru"][name], arrays)).max() > 0.01


@pytest.mark.parametrize("name", ["pytorch", "keras", "onnx", "rtneural", "flax", "equinox"])
def test_swapped_biases_are_seen(name):
    """Of n the two cannot be summed: exchanged, the outputs differ."""
    arrays = foreign("gru", name)
    w = from_layout(name, arrays, cell="gru")
    wrong = w | {"b_ih": w["b_hh"], "b_hh": w["b_ih"]}
    assert np.abs(run(gru, wrong) - run(THEIRS["gru"][name], arrays)).max() > 0.01


@st.composite
def any_weights(draw):
    cell, name = draw(st.sampled_from(ALL))
    sizes = draw(st.integers(1, 6)), draw(st.integers(1, 7))
    dtype = draw(st.sampled_from(["f4", "f8"]))
    return cell, name, random_weights(cell, draw(st.integers(0, 99)), sizes, True, dtype)


@given(any_weights())
@settings(max_examples=60, deadline=None, database=None)
def test_there_and_back(drawn):
    cell, name, w = drawn
    again = from_layout(name, to_layout(name, w, cell=cell), cell=cell)
    exact = name in ("pytorch", "keras", "onnx", "rtneural") or cell == "rnn"
    for key, value in again.items():
        if name != "rtneural":
            assert value.dtype == w[key].dtype
        if exact or key in ("w_ih", "w_hh"):
            assert np.array_equal(value, w[key])
    if not exact:  # the biases of gates that have one there are summed
        total = again["b_ih"] + again.get("b_hh", 0)
        np.testing.assert_allclose(total, w["b_ih"] + w["b_hh"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("cell", "name", "bias"), VARIANTS)
def test_back_and_there(cell, name, bias):
    arrays = foreign(cell, name, bias)
    again = to_layout(name, from_layout(name, arrays, cell=cell), cell=cell)
    if cell == "rnn" and name in ("pytorch", "onnx"):
        arrays = again
        again = to_layout(name, from_layout(name, again, cell=cell), cell=cell)
    assert plain(again) == plain(arrays)


def test_one_bias_of_two():
    w = random_weights("gru")
    del w["b_ih"]
    arrays = to_layout("keras", w, cell="gru")
    assert not arrays["bias"][0].any()
    assert np.array_equal(from_layout("keras", arrays, cell="gru")["b_hh"], w["b_hh"])
    assert to_layout("keras_reset_before", w, cell="gru")["bias"].shape == (3 * H,)


def test_errors_name_the_shape():
    arrays = foreign("gru", "keras")
    with pytest.raises(ValueError, match=r"bias must have shape \(1 \+ 1, 3\*H\) = \(2, 15\)"):
        from_layout("keras", arrays | {"bias": np.ones((1, 3 * H))}, cell="gru")
    with pytest.raises(ValueError, match="rtneural type must be 'gru', got 'lstm'"):
        from_layout("rtneural", foreign("gru", "rtneural") | {"type": "lstm"}, cell="gru")


@pytest.mark.parity
@pytest.mark.parametrize("cell", ["gru", "rnn"])
def test_live_pytorch(cell):
    import torch

    arrays = foreign(cell, "pytorch")
    live = {"gru": torch.nn.GRUCell, "rnn": torch.nn.RNNCell}[cell](I, H, dtype=torch.float64)
    live.load_state_dict({name: torch.from_numpy(a) for name, a in arrays.items()})

    def step(w, x, h):
        with torch.no_grad():
            return live(torch.from_numpy(x), torch.from_numpy(h)).numpy()

    got = run(ours(cell, "pytorch"), from_layout("pytorch", arrays, cell=cell))
    np.testing.assert_allclose(got, run(step, None), rtol=1e-11, atol=1e-13)
