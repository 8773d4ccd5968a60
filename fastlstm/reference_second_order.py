# SPDX-License-Identifier: MIT
"""Second derivatives of the LSTM in plain NumPy: tangents of `reference`, line by line.

A tangent says how a number moves when all arguments move along a direction; that of ``q`` is
``tq``. It is linear in the tangents of what ``q`` is made of::

    r = p q              tr = tp q + p tq
    i = sigmoid(a)       ti = i (1 - i) ta
    g = tanh(a)          tg = (1 - g^2) ta

`lstm_jvp` applies this to the forward pass, `lstm_hvp` to the backward pass too: each line of
`_cell_hvp` is the tangent of the line of `reference_step.cell_backward` beside it. That is the
product of the Hessian with a direction at the price of about two gradients (Pearlmutter 1994).

They know the default cell, peepholes, coupled gates, a clipped cell and projections.
"""

import numpy as np

from . import reference, tangent_checks
from .spec import Spec

__all__ = ["lstm_hvp", "lstm_jvp"]


def lstm_jvp(primals, tangents, *, lengths=None, reverse=False, spec=Spec()):
    """The outputs of an LSTM layer, and how they move when its arguments move: J v.

    Parameters
    ----------
    primals : dict of str to array_like
        The arguments of `lstm_forward` by name: x, w_ih, w_hh, and where there are any b, h0, c0,
        w_peephole, w_proj.
    tangents : dict of str to array_like
        The direction: for each name an array of the shape and dtype of the primal. One that is
        missing or None is zero. h0 and c0 may have one where the primal is left out.
    lengths, reverse, spec
        As for `lstm_forward`. Of ``spec`` only peepholes, coupled and cell_clip may be set.

    Returns
    -------
    y : ndarray (T, B, H|P)
    (h_n, c_n) : pair of ndarray (B, H|P), (B, H)
        As from `lstm_forward`.
    (ty, (th_n, tc_n))
        Their tangents, of the same shapes: the derivative along ``tangents``. Exactly 0 beyond
        a row's length.

    Raises
    ------
    TypeError, ValueError
        As `lstm_forward`; a tangent has not the shape or dtype of its primal, or a name that
        does not exist.
    NotImplementedError
        ``spec`` sets another field.

    Notes
    -----
    Forward mode: one pass beside the forward pass, 24 H (I + H) T B floating-point operations
    together. Where a cell is clipped its tangent is 0.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> primals = {n: rng.standard_normal(s) for n, s in
    ...            {"x": (5, 2, 3), "w_ih": (16, 3), "w_hh": (16, 4)}.items()}
    >>> v = {"x": np.ones((5, 2, 3))}
    >>> y, _, (ty, _) = lstm_jvp(primals, v)
    >>> moved, _, _ = lstm_jvp({**primals, "x": primals["x"] + 1e-6}, v)
    >>> bool(np.allclose((moved - y) / 1e-6, ty, atol=1e-4))
    True
    """
    given = tangent_checks.forward_arguments(primals, spec)
    y, state, tape = reference.lstm_forward(**given, lengths=lengths, reverse=reverse, spec=spec)
    v = tangent_checks.tangent_inputs(tape, tangents)
    ty, tstate, _ = _tangent_forward(tape, v)
    return y, state, (ty, tstate)


def lstm_hvp(
    primals, tangents, dy=None, dstate=None, tdy=None, tdstate=None, *,
    lengths=None, reverse=False, spec=Spec(),
):  # fmt: skip
    """The gradients of an LSTM layer, and how they move when its arguments move: H v.

    It differentiates what `lstm_backward` returns, the gradients of a loss L for given dL/dy and
    dL/d(h_n, c_n), along ``tangents``::

        gradients = J^T u,     tangents of them = (dJ/dv)^T u + J^T tu,     u = (dy, dstate)

    For a loss that is linear in y, h_n and c_n, where u does not move, it is the Hessian of L
    times the direction. For any other loss u moves with y: pass its tangent, tu = d2L/dy2 ty with
    ty from `lstm_jvp` (see the example).

    Parameters
    ----------
    primals, tangents, lengths, reverse, spec
        As for `lstm_jvp`.
    dy, dstate
        As for `lstm_backward`: dL/dy (T, B, H|P) and the pair dL/dh_n, dL/dc_n. None: zeros.
    tdy, tdstate
        The tangents of dy and dstate, of the same shapes. None: zeros, a linear loss.

    Returns
    -------
    (dx, (dh0, dc0), grads)
        The gradients, as from `lstm_backward`.
    (tdx, (tdh0, tdc0), tgrads)
        Their tangents, of the same shapes.

    Raises
    ------
    TypeError, ValueError, NotImplementedError
        As `lstm_jvp` and `lstm_backward`.

    Notes
    -----
    Forward over reverse (Pearlmutter 1994): about 72 H (I + H) T B floating-point operations,
    3 times those of a gradient, whatever the size of the Hessian.

    Examples
    --------
    The Hessian of 1/2 sum(y**2) with respect to w_hh, times a direction:

    >>> rng = np.random.default_rng(0)
    >>> primals = {n: rng.standard_normal(s) for n, s in
    ...            {"x": (5, 2, 3), "w_ih": (16, 3), "w_hh": (16, 4)}.items()}
    >>> v = {"w_hh": rng.standard_normal((16, 4))}
    >>> y, _, (ty, _) = lstm_jvp(primals, v)  # dL/dy = y, so its tangent is ty
    >>> (_, _, grads), (_, _, tgrads) = lstm_hvp(primals, v, dy=y, tdy=ty)
    >>> near = {**primals, "w_hh": primals["w_hh"] + 1e-6 * v["w_hh"]}
    >>> y_near, _, _ = lstm_jvp(near, v)
    >>> (_, _, grads_near), _ = lstm_hvp(near, v, dy=y_near)
    >>> bool(np.allclose((grads_near["w_hh"] - grads["w_hh"]) / 1e-6, tgrads["w_hh"], atol=1e-3))
    True
    """
    given = tangent_checks.forward_arguments(primals, spec)
    _, _, tape = reference.lstm_forward(**given, lengths=lengths, reverse=reverse, spec=spec)
    v = tangent_checks.tangent_inputs(tape, tangents)
    u, tu = tangent_checks.cotangent_inputs(tape, dy, dstate, tdy, tdstate)
    _, _, moved = _tangent_forward(tape, v)
    return _tangent_backward(tape, v, moved, u, tu)


def _tangent_forward(tape, v):
    """ty, (th_n, tc_n), and the tangents of all h, c, gates and m, as the tape has those."""
    q, h, c, gates, m = tape.inputs, tape.h, tape.c, tape.gates, tape.h_raw
    n = np.full(q.B, q.T) if q.lengths is None else q.lengths
    th, tc, tgates, tm = map(np.zeros_like, (h, c, gates, m))
    ty = np.zeros((q.T, q.B, q.P), q.x.dtype)
    rows = np.arange(q.B)
    first, last = (n, 0 * n) if q.reverse else (0 * n, n)  # slots of the initial, final state
    th[first, rows], tc[first, rows] = v.h0, v.c0

    for t in reversed(range(q.T)) if q.reverse else range(q.T):
        on = t < n  # (B,) the rows that have a step t
        before, after = (t + 1, t) if q.reverse else (t, t + 1)
        ta = v.x[t, on] @ q.w_ih.T + q.x[t, on] @ v.w_ih.T  # a = W_ih x + W_hh h[t-1] + b
        ta += th[before, on] @ q.w_hh.T + h[before, on] @ v.w_hh.T
        ta += 0 if q.b is None else v.b
        tgates[t, on], tc[after, on], tm[t, on] = _cell_jvp(
            q, v, gates[t, on], c[before, on], c[after, on], ta.reshape(-1, 4, q.H), tc[before, on]
        )
        if q.w_proj is None:
            th[after, on] = tm[t, on]
        else:  # h = W_proj m
            th[after, on] = tm[t, on] @ q.w_proj.T + m[t, on] @ v.w_proj.T
        ty[t, on] = th[after, on]
    return ty, (th[last, rows], tc[last, rows]), (th, tc, tgates, tm)


def _cell_jvp(q, v, gates, c_prev, c, ta, tc_prev):
    """The tangents of one step: of the gates (n, 4, H), of c and m (n, H)."""
    s = q.spec
    i, f, g, o = gates.swapaxes(0, 1)
    ta_i, ta_f, ta_g, ta_o = ta.swapaxes(0, 1)  # views of ta
    if "i" in s.peepholes:  # a_i += p_i c[t-1]
        ta_i += v.w_peephole[0] * c_prev + q.w_peephole[0] * tc_prev
    if "f" in s.peepholes:
        ta_f += v.w_peephole[1] * c_prev + q.w_peephole[1] * tc_prev
    ti = i * (1 - i) * ta_i
    tf = -ti if s.coupled else f * (1 - f) * ta_f  # f = 1 - i
    tg = (1 - g**2) * ta_g
    tc = tf * c_prev + f * tc_prev + ti * g + i * tg  # c = f c[t-1] + i g
    if s.cell_clip is not None:
        tc = np.where(np.abs(c) >= s.cell_clip, 0, tc)
    if "o" in s.peepholes:  # a_o += p_o c
        ta_o += v.w_peephole[2] * c + q.w_peephole[2] * tc
    to = o * (1 - o) * ta_o
    s_c = np.tanh(c)
    tm = to * s_c + o * (1 - s_c**2) * tc  # m = o tanh(c)
    return np.stack([ti, tf, tg, to], axis=1), tc, tm


def _tangent_backward(tape, v, moved, u, tu):
    """The gradients of `reference.lstm_backward` and their tangents."""
    q, h, c, gates, m = tape.inputs, tape.h, tape.c, tape.gates, tape.h_raw
    th, tc, tgates, tm = moved
    (dy, dh, dc), (tdy, tdh, tdc) = u, tu
    n = np.full(q.B, q.T) if q.lengths is None else q.lengths
    dx, tdx = np.zeros((q.T, q.B, q.I), q.x.dtype), np.zeros((q.T, q.B, q.I), q.x.dtype)
    grads, tgrads = ({k: np.zeros(w.shape, w.dtype) for k, w in q.weights.items()} for _ in "gt")

    def product(name, d, td, a, ta):
        """dW += d^T a, where something was W a."""
        grads[name] += d.T @ a
        tgrads[name] += td.T @ a + d.T @ ta

    for t in range(q.T) if q.reverse else reversed(range(q.T)):
        on = t < n
        before, after = (t + 1, t) if q.reverse else (t, t + 1)
        dm, tdm = dh[on], tdh[on]
        if dy is not None:  # y[t] is h[t]
            dm, tdm = dm + dy[t, on], tdm + tdy[t, on]
        if q.w_proj is not None:  # h = W_proj m
            product("w_proj", dm, tdm, m[t, on], tm[t, on])
            dm, tdm = dm @ q.w_proj, tdm @ q.w_proj + dm @ v.w_proj
        da, tda, dc[on], tdc[on] = _cell_hvp(
            q, v, (gates[t, on], c[before, on], c[after, on]),
            (tgates[t, on], tc[before, on], tc[after, on]),
            (dm, dc[on]), (tdm, tdc[on]), grads, tgrads,
        )  # fmt: skip
        da, tda = da.reshape(-1, 4 * q.H), tda.reshape(-1, 4 * q.H)
        dx[t, on] = da @ q.w_ih  # a = W_ih x + W_hh h[t-1] + b
        tdx[t, on] = tda @ q.w_ih + da @ v.w_ih
        dh[on] = da @ q.w_hh
        tdh[on] = tda @ q.w_hh + da @ v.w_hh
        product("w_ih", da, tda, q.x[t, on], v.x[t, on])
        product("w_hh", da, tda, h[before, on], th[before, on])
        if q.b is not None:
            grads["b"] += da.sum(axis=0)
            tgrads["b"] += tda.sum(axis=0)
    return (dx, (dh, dc), grads), (tdx, (tdh, tdc), tgrads)


def _cell_hvp(q, v, at, moved, d, td, grads, tgrads):
    """One step back: da, tda (n, 4, H) and dc[t-1], tdc[t-1].

    ``at`` = gates[t], c[t-1], c[t]; ``d`` = dL/dm[t], dL/dc[t]; ``moved`` and ``td`` are their
    tangents.
    """
    s, p, tp = q.spec, q.w_peephole, v.w_peephole
    (gates, c_prev, c), (tgates, tc_prev, tc), (dm, dc), (tdm, tdc) = at, moved, d, td
    i, f, g, o = gates.swapaxes(0, 1)
    ti, tf, tg, to = tgates.swapaxes(0, 1)
    s_c = np.tanh(c)
    ts_c = (1 - s_c**2) * tc

    def peephole(k, da, tda, a, ta):
        """a_k += p_k a: adds to dp_k, returns what reaches a."""
        grads["w_peephole"][k] += (da * a).sum(axis=0)
        tgrads["w_peephole"][k] += (tda * a + da * ta).sum(axis=0)
        return p[k] * da, tp[k] * da + p[k] * tda

    do, tdo = dm * s_c, tdm * s_c + dm * ts_c  # m = o tanh(c)
    ds, tds = dm * o, tdm * o + dm * to
    dc, tdc = dc + ds * (1 - s_c**2), tdc + tds * (1 - s_c**2) - ds * 2 * s_c * ts_c
    da_o, tda_o = _gate(o, to, do, tdo)
    if "o" in s.peepholes:
        dp, tdp = peephole(2, da_o, tda_o, c, tc)
        dc, tdc = dc + dp, tdc + tdp
    if s.cell_clip is not None:
        dc, tdc = (np.where(np.abs(c) >= s.cell_clip, 0, a) for a in (dc, tdc))
    di, tdi = dc * g, tdc * g + dc * tg  # c = f c[t-1] + i g
    df, tdf = dc * c_prev, tdc * c_prev + dc * tc_prev
    dg, tdg = dc * i, tdc * i + dc * ti
    dc_prev, tdc_prev = dc * f, tdc * f + dc * tf
    if s.coupled:  # f = 1 - i
        di, tdi = di - df, tdi - tdf
        df, tdf = np.zeros_like(df), np.zeros_like(tdf)
    da_i, tda_i = _gate(i, ti, di, tdi)
    da_f, tda_f = _gate(f, tf, df, tdf)
    da_g, tda_g = dg * (1 - g**2), tdg * (1 - g**2) - dg * 2 * g * tg
    for k, name, da, tda in (0, "i", da_i, tda_i), (1, "f", da_f, tda_f):
        if name in s.peepholes:
            dp, tdp = peephole(k, da, tda, c_prev, tc_prev)
            dc_prev, tdc_prev = dc_prev + dp, tdc_prev + tdp
    da = np.stack([da_i, da_f, da_g, da_o], axis=1)
    return da, np.stack([tda_i, tda_f, tda_g, tda_o], axis=1), dc_prev, tdc_prev


def _gate(s, ts, ds, tds):
    """da and its tangent from ds and its tangent, where s = sigmoid(a)."""
    return ds * s * (1 - s), tds * s * (1 - s) + ds * (1 - 2 * s) * ts
