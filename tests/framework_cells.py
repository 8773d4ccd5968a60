# SPDX-License-Identifier: MIT
"""One step of an LSTM as each framework computes it, transcribed from its source.

A cell reads the framework's own arrays: (arrays, x (B, I), h (B, H|P), c (B, H)) -> (h, c).
"""

import numpy as np

B, I, H, P, T = 3, 4, 5, 2, 6


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def cell(i, f, g, o, c, p=None):
    """(m, c) of one step from the four pre-activations; p: peepholes i, f, o."""
    pi, pf, po = (0, 0, 0) if p is None else p
    c = sigmoid(f + pf * c) * c + sigmoid(i + pi * c) * np.tanh(g)
    return sigmoid(o + po * c) * np.tanh(c), c


def own(w, x, h, c):
    a = x @ w["w_ih"].T + h @ w["w_hh"].T + w.get("b", 0)
    m, c = cell(*np.split(a, 4, 1), c, w.get("w_peephole"))
    return m @ w["w_proj"].T if "w_proj" in w else m, c


# ---- the frameworks' cells: (their arrays, x, h, c) -> (h, c)


def pytorch(w, x, h, c):
    a = x @ w["weight_ih"].T + h @ w["weight_hh"].T
    if "bias_ih" in w:
        a = a + w["bias_ih"] + w["bias_hh"]
    i, f, g, o = np.split(a, 4, 1)
    m, c = cell(i, f, g, o, c)
    return m @ w["weight_hr"].T if "weight_hr" in w else m, c


def keras(w, x, h, c):
    z = x @ w["kernel"] + h @ w["recurrent_kernel"] + w.get("bias", 0)
    z0, z1, z2, z3 = np.split(z, 4, 1)
    c = sigmoid(z1) * c + sigmoid(z0) * np.tanh(z2)
    return sigmoid(z3) * np.tanh(c), c


def onnx(w, x, h, c):
    Wi, Wo, Wf, Wc = np.split(w["W"][0], 4)
    Ri, Ro, Rf, Rc = np.split(w["R"][0], 4)
    Wbi, Wbo, Wbf, Wbc, Rbi, Rbo, Rbf, Rbc = np.split(w.get("B", np.zeros((1, 8 * H)))[0], 8)
    Pi, Po, Pf = np.split(w.get("P", np.zeros((1, 3 * H)))[0], 3)
    it = sigmoid(x @ Wi.T + h @ Ri.T + Pi * c + Wbi + Rbi)
    ft = sigmoid(x @ Wf.T + h @ Rf.T + Pf * c + Wbf + Rbf)
    ct = np.tanh(x @ Wc.T + h @ Rc.T + Wbc + Rbc)
    C = ft * c + it * ct
    return sigmoid(x @ Wo.T + h @ Ro.T + Po * C + Wbo + Rbo) * np.tanh(C), C


def flax(w, x, h, c):
    def dense(k):
        return x @ w["i" + k]["kernel"] + h @ w["h" + k]["kernel"] + w["h" + k]["bias"]

    return cell(dense("i"), dense("f"), dense("g"), dense("o"), c)


def equinox(w, x, h, c):
    i, f, g, o = np.split(x @ w["weight_ih"].T + h @ w["weight_hh"].T + w.get("bias", 0), 4, 1)
    return cell(i, f, g, o, c)


def haiku(w, x, h, c):
    i, g, f, o = np.split(np.concatenate([x, h], 1) @ w["w"] + w["b"], 4, 1)
    c = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def tf1(w, x, h, c):
    i, j, f, o = np.split(np.concatenate([x, h], 1) @ w["kernel"] + w["bias"], 4, 1)
    wi, wf, wo = (w.get(f"w_{k}_diag", 0) for k in "ifo")
    c = sigmoid(f + 1.0 + wf * c) * c + sigmoid(i + wi * c) * np.tanh(j)
    m = sigmoid(o + wo * c) * np.tanh(c)
    return m @ w["projection/kernel"] if "projection/kernel" in w else m, c


def haste(w, x, h, c):
    i, g, f, o = np.split(x @ w["kernel"] + h @ w["recurrent_kernel"] + w["bias"], 4, 1)
    return cell(i, f, g, o, c)


def onednn(w, x, h, c):
    a = np.einsum("bi,igh->gbh", x, w["weights_layer"][0, 0])
    a = a + np.einsum("br,rgh->gbh", h, w["weights_iter"][0, 0]) + w["bias"][0, 0][:, None]
    i, f, g, o = a
    m, c = cell(i, f, g, o, c, w["weights_peephole"][0, 0] if "weights_peephole" in w else None)
    return m @ w["weights_projection"][0, 0] if "weights_projection" in w else m, c


def thinc(w, x, h, c):
    wx, bx, wh, bh = np.split(w["LSTM"], np.cumsum([4 * H * I, 4 * H, 4 * H * H]))
    a = x @ wx.reshape(4 * H, I).T + bx + h @ wh.reshape(4 * H, H).T + bh
    hf, hi, ho, hc = np.split(a, 4, 1)
    c = sigmoid(hf) * c + sigmoid(hi) * np.tanh(hc)
    return sigmoid(ho) * np.tanh(c), c


def rtneural(w, x, h, c):
    W, U, b = map(np.array, w["weights"])
    i, f, ct, o = (slice(k * H, (k + 1) * H) for k in range(4))
    c_new = sigmoid(x @ W[:, f] + h @ U[:, f] + b[f]) * c
    c_new += sigmoid(x @ W[:, i] + h @ U[:, i] + b[i]) * np.tanh(
        x @ W[:, ct] + h @ U[:, ct] + b[ct]
    )
    return sigmoid(x @ W[:, o] + h @ U[:, o] + b[o]) * np.tanh(c_new), c_new


CELLS = {
    "pytorch": pytorch,
    "keras": keras,
    "onnx": onnx,
    "flax": flax,
    "equinox": equinox,
    "haiku": haiku,
    "tf1_basic": tf1,
    "tf1": tf1,
    "haste": haste,
    "onednn": onednn,
    "thinc": thinc,
    "rtneural": rtneural,
}
