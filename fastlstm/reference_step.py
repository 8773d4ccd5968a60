# SPDX-License-Identifier: MIT
"""One step of the LSTM in plain NumPy, forward and back; the formulas are in reference.py."""

import numpy as np

from .activations import activation

__all__ = [
    "IFO",
    "cell_backward",
    "masks_at",
    "product_backward",
    "step",
    "unzone",
    "w_hh_of",
]

EPS = 1e-5  # of the layer norm
IFO = [0, 1, 3]  # the gates of i f g o that are gates


def masks_at(q, t, on):
    """What multiplies in step t in these rows: for zoneout the share of the new state."""
    masks = q.masks
    at = {name: 1 - getattr(q.spec, name) for name in ("zoneout_h", "zoneout_c")}
    for name in at.keys() & masks:
        at[name] = masks[name][t, on].astype(q.x.dtype)
    if "recurrent_dropout" in masks:
        at[q.spec.recurrent_dropout_on] = masks["recurrent_dropout"][on]
    return at


def step(q, x, h_prev, c_prev, gates_prev, masks):
    """One step of n rows: h, c, the gates (n, 4, H), m, c before zoneout, what variants keep."""
    gates, c_new, m, kept = _cell_forward(q, x, h_prev, c_prev, gates_prev, masks)
    h_new = m if q.w_proj is None else m @ q.w_proj.T
    h = _zone(q.spec.zoneout_h, masks["zoneout_h"], h_new, h_prev)
    c = _zone(q.spec.zoneout_c, masks["zoneout_c"], c_new, c_prev)
    return h, c, gates, m, c_new, kept


def _zone(rate, keep, new, old):
    return keep * new + (1 - keep) * old if rate else new


def unzone(rate, keep, d):
    """The gradients of the new and of the old state from that of their mixture."""
    return (keep * d, (1 - keep) * d) if rate else (d, 0)


def w_hh_of(q):
    """The recurrent weights that are left where some are dropped."""
    return q.w_hh * q.masks.get("weight_drop", 1)


def _cell_forward(q, x, h_prev, c_prev, gates_prev, masks):
    """One step: the gates (n, 4, H), c and m (n, H), and what only variants need backward."""
    s, H = q.spec, q.H
    (gate, _), (candidate, _), (output, _) = map(activation, (s.gate, s.candidate, s.output))
    a_x, a_h = x @ q.w_ih.T, (h_prev * masks.get("h", 1)) @ w_hh_of(q).T
    kept = {"a_x": a_x, "a_h": a_h} if s.layer_norm else {}
    if s.layer_norm:
        a_x, a_h = q.ln_x * _norm(a_x, _live(q))[0], q.ln_h * _norm(a_h, _live(q))[0]
    a = (a_x + a_h + (0 if q.b is None else q.b)).reshape(-1, 4, H)
    if s.full_gate_recurrence:
        a[:, IFO] += (gates_prev[:, IFO].reshape(-1, 3 * H) @ q.w_fgr.T).reshape(-1, 3, H)
    a_i, a_f, a_g, a_o = a.swapaxes(0, 1)  # views of a
    one = np.ones_like(c_prev)

    a_i += _peephole(q, "i") * c_prev if "i" in s.peepholes else 0
    a_f += _peephole(q, "f") * c_prev if "f" in s.peepholes else 0
    i = gate(_clip(a_i, s.clip)) if s.input_gate else one
    f = gate(_clip(a_f, s.clip)) if s.forget_gate else one
    f = 1 - i if s.coupled else f
    g = candidate(_clip(a_g, s.clip))
    c = _clip(f * c_prev + i * (g * masks.get("candidate", 1)), s.cell_clip)
    a_o += _peephole(q, "o") * c if "o" in s.peepholes else 0
    o = gate(_clip(a_o, s.clip)) if s.output_gate else one
    m = o * output(q.ln_c[0] * _norm(c)[0] + q.ln_c[1] if s.layer_norm else c)
    if s.clip is not None:
        kept["clipped"] = np.abs(a) >= s.clip
    return np.stack([i, f, g, o], axis=1), c, m, kept


def cell_backward(q, gates, c_prev, c, kept, dgates, dm, dc, drop, grads):
    """One step back: da (n, 4, H), dc[t-1], dc[t] in all, from dL/d gates[t] by t+1, dm, dc[t]."""
    s = q.spec
    (_, d_gate), (_, d_candidate) = activation(s.gate), activation(s.candidate)
    output, d_output = activation(s.output)
    i, f, g, o = gates.swapaxes(0, 1)

    c_hat, r = _norm(c) if s.layer_norm else (None, None)
    s_c = output(q.ln_c[0] * c_hat + q.ln_c[1] if s.layer_norm else c)
    do = dm * s_c + dgates[:, 3]  # m = o output(ln_c LN(c))
    ds = d_output(s_c, dm * o)
    if s.layer_norm:
        grads["ln_c"] += np.stack([(ds * c_hat).sum(axis=0), ds.sum(axis=0)])
        ds = _norm_backward(c_hat, r, q.ln_c[0] * ds)
    dc = dc + ds
    da_o = _live_only(d_gate(o, do), s.output_gate, kept, 3)
    if "o" in s.peepholes:  # a_o += p_o c[t]
        dc = dc + _peephole(q, "o") * da_o
        grads["w_peephole"][2] += (da_o * c).sum(axis=0)
    dc_all = dc
    if s.cell_clip is not None:
        dc = np.where(np.abs(c) >= s.cell_clip, 0, dc)
    di, df, dg = dc * g * drop, dc * c_prev, dc * i * drop  # c = f c[t-1] + i g
    di, df = di + dgates[:, 0], df + dgates[:, 1]
    dc_prev = dc * f
    di = di - df if s.coupled else di  # f = 1 - i
    da_i = _live_only(d_gate(i, di), s.input_gate, kept, 0)
    da_f = _live_only(d_gate(f, df), s.forget_gate and not s.coupled, kept, 1)
    da_g = _live_only(d_candidate(g, dg), True, kept, 2)
    for k, name, da in (0, "i", da_i), (1, "f", da_f):
        if name in s.peepholes:  # a_i += p_i c[t-1]; a_f += p_f c[t-1]
            dc_prev = dc_prev + _peephole(q, name) * da
            grads["w_peephole"][k] += (da * c_prev).sum(axis=0)
    return np.stack([da_i, da_f, da_g, da_o], axis=1), dc_prev, dc_all


def _peephole(q, gate):
    return q.w_peephole["ifo".index(gate)]


def _clip(a, limit):
    return a if limit is None else np.clip(a, -limit, limit)


def _live_only(da, live, kept, k):
    """The gradient ``da``, 0 where the gate is constant or its argument was clipped."""
    if not live:
        return np.zeros_like(da)
    return np.where(kept["clipped"][:, k], 0, da) if "clipped" in kept else da


def _live(q):
    """Which of the 4H pre-activations there are: a layer norm leaves out the others."""
    return np.repeat(q.spec.live, q.H)


def _norm(a, live=True):
    """LN(a) over the last axis, and 1 / its standard deviation; 0 where not live."""
    d = (a - a.mean(axis=1, keepdims=True, where=live)) * live
    r = 1 / np.sqrt((d**2).mean(axis=1, keepdims=True, where=live) + EPS)
    return d * r, r


def _norm_backward(hat, r, dhat, live=True):
    """dL/da from dL/dLN(a)."""
    mean = (dhat.mean(axis=1, keepdims=True, where=live),
            (dhat * hat).mean(axis=1, keepdims=True, where=live))  # fmt: skip
    return r * (dhat - mean[0] - hat * mean[1]) * live


def product_backward(q, name, product, da, grads):
    """dL/d product from da, where a += gain LN(product)."""
    hat, r = _norm(product, _live(q))
    grads[name] += (da * hat).sum(axis=0)
    return _norm_backward(hat, r, getattr(q, name) * da, _live(q))
