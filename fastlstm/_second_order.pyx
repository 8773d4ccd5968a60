# SPDX-License-Identifier: MIT
"""Second derivatives of one LSTM layer in one direction: `lstm_jvp` and `lstm_hvp`.

They have the arguments and results of `fastlstm.reference_second_order`, which says what they
compute. Here is how:

* The forward pass is the engine's; its tape is brought into the order of the BLAS step: rows
  longest first, a row of gates i[H] f[H] g[H] o[H].
* Two descriptions go through the loops: ``q`` of the pass, ``v`` of its tangents, array by array.
* What of a tangent does not wait for the step before, W_ih tx + TW_ih x + TW_hh h[t-1], is formed
  for all steps at once.
* Backward a gradient and its tangent lie side by side: d (T,B,2,4H). So one product with 2B rows
  takes both through W_hh, and one product gives dw and the most of tdw.
"""

from libc.stdint cimport uintptr_t
from libc.string cimport memcpy, memset

import numpy as np

from . import _engine, reference, tangent_checks
from .moved import Moved
from .spec import Spec

from ._blas cimport gemm
from ._blas_step cimport c_slot, gates_of, h_slot
from ._csrc cimport (
    FL_PEEPHOLE_F, FL_PEEPHOLE_I, FL_PEEPHOLE_O, fl_flush_denormals, fl_lstm, fl_restore_denormals,
)
from ._gates_tangent cimport gates_hvp, gates_jvp
from ._job cimport Job, blas_gemm, interrupted
from ._loops cimport look_for_ctrl_c, steps_between_signals

__all__ = ["lstm_hvp", "lstm_jvp", "tangent_backward", "tangent_forward"]

ctypedef fused real:
    float
    double


cdef struct Pass:
    fl_lstm q   # the pass; its gradients are pairs: (B,2,P) dh, (2,4H,I) dw_ih, ...
    fl_lstm v   # the tangents of x, the weights, h, c, gates and m; NULL: zeros
    void *s_c   # (T+1,B,H) tanh(c)
    void *d     # (T,B,2,4H) dgates and their tangents
    void *dm    # (B,2,H) with a projection


# -- the loops -----------------------------------------------------------------------------------

cdef void jvp_loop(const real *tag, Pass *a, Job *job) noexcept nogil:
    """th, tc, tgates and tm of all steps."""
    cdef const fl_lstm *q = &a.q
    cdef const fl_lstm *v = &a.v
    cdef Py_ssize_t N = q.T * q.B, B = q.B, H = q.H, P = q.P, I = q.I, G = 4 * q.H
    cdef Py_ssize_t s, t, n, r, k, patience = steps_between_signals(q)
    cdef Py_ssize_t before, after
    cdef real *ta = <real *>v.gates
    cdef real *tm
    # ta += tx W_ih^T + x TW_ih^T + h[t-1] TW_hh^T
    if v.x != NULL:
        gemm(q.gemm, False, True, N, G, I, <const real *>v.x, I, <const real *>q.w_ih, I, <real>1,
             ta, G)
    if v.w_ih != NULL:
        gemm(q.gemm, False, True, N, G, I, <const real *>q.x, I, <const real *>v.w_ih, I, <real>1,
             ta, G)
    if v.w_hh != NULL:
        gemm(q.gemm, False, True, N, G, P, h_slot(tag, q, q.reverse), P, <const real *>v.w_hh, P,
             <real>1, ta, G)
    for s in range(q.T):
        t = q.T - 1 - s if q.reverse else s
        before, after, n = t + q.reverse, t + 1 - q.reverse, q.active[t]
        ta = gates_of(tag, v, t)
        gemm(q.gemm, False, True, n, G, P, h_slot(tag, v, before), P, <const real *>q.w_hh, P,
             <real>1, ta, G)
        tm = <real *>v.m + t * B * H if q.w_proj != NULL else h_slot(tag, v, after)
        for r in range(n):
            k = r * H
            gates_jvp(q, v, gates_of(tag, q, t) + r * G, c_slot(tag, q, before) + k,
                      c_slot(tag, q, after) + k, <real *>a.s_c + after * B * H + k, ta + r * G,
                      c_slot(tag, v, before) + k, c_slot(tag, v, after) + k, tm + k)
        if q.w_proj != NULL:  # h = W_proj m
            gemm(q.gemm, False, True, n, P, H, tm, H, <const real *>q.w_proj, H, <real>0,
                 h_slot(tag, v, after), P)
            if v.w_proj != NULL:
                gemm(q.gemm, False, True, n, P, H, <real *>q.m + t * B * H, H,
                     <const real *>v.w_proj, H, <real>1, h_slot(tag, v, after), P)
        if (s + 1) % patience == 0:
            look_for_ctrl_c(job, s)
            if job.interrupted:
                return


cdef void hvp_loop(const real *tag, Pass *a, Job *job) noexcept nogil:
    """d of all steps; dh and dc go from those of the end to those of the start."""
    cdef const fl_lstm *q = &a.q
    cdef const fl_lstm *v = &a.v
    cdef Py_ssize_t B = q.B, H = q.H, P = q.P, G = 4 * q.H
    cdef Py_ssize_t s, t, n, r, j, k, before, after, patience = steps_between_signals(q) // 2 + 1
    cdef real *dh = <real *>q.dh
    cdef real *dc = <real *>q.dc
    cdef real *dm
    cdef real *d
    for s in range(q.T):
        t = s if q.reverse else q.T - 1 - s
        before, after, n = t + q.reverse, t + 1 - q.reverse, q.active[t]
        if q.dy != NULL:  # y[t] is h[t]
            for r in range(n):
                for j in range(P):
                    dh[2 * r * P + j] += (<const real *>q.dy)[(t * B + r) * P + j]
                    dh[2 * r * P + P + j] += (<const real *>v.dy)[(t * B + r) * P + j]
        dm = dh
        if q.w_proj != NULL:  # h = W_proj m
            dm = <real *>a.dm
            memcpy(<real *>q.dh_all + t * B * 2 * P, dh, 2 * n * P * sizeof(real))
            gemm(q.gemm, False, False, 2 * n, H, P, dh, P, <const real *>q.w_proj, H, <real>0, dm,
                 H)
            if v.w_proj != NULL:
                gemm(q.gemm, False, False, n, H, P, dh, 2 * P, <const real *>v.w_proj, H, <real>1,
                     dm + H, 2 * H)
        d = <real *>a.d + t * B * 2 * G
        for r in range(n):
            k = r * H
            gates_hvp(q, v, gates_of(tag, q, t) + r * G, gates_of(tag, v, t) + r * G,
                      c_slot(tag, q, before) + k, c_slot(tag, v, before) + k,
                      c_slot(tag, q, after) + k, c_slot(tag, v, after) + k,
                      <real *>a.s_c + after * B * H + k, dm + 2 * k, dm + 2 * k + H,
                      dc + 2 * k, dc + 2 * k + H, d + 2 * r * G, d + 2 * r * G + G)
        gemm(q.gemm, False, False, 2 * n, P, G, d, G, <const real *>q.w_hh, P, <real>0, dh, P)
        if v.w_hh != NULL:
            gemm(q.gemm, False, False, n, P, G, d, 2 * G, <const real *>v.w_hh, P, <real>1, dh + P,
                 2 * P)
        if (s + 1) % patience == 0:
            look_for_ctrl_c(job, s)
            if job.interrupted:
                return


cdef void sum_pairs(const real *tag, Pass *a) noexcept nogil:
    """The gradients of x and of the weights and their tangents, from d."""
    cdef const fl_lstm *q = &a.q
    cdef const fl_lstm *v = &a.v
    cdef Py_ssize_t N = q.T * q.B, H = q.H, P = q.P, I = q.I, G = 4 * q.H, r, j
    cdef const real *d = <const real *>a.d
    cdef real *dx = <real *>q.dx
    cdef real *db = <real *>q.db
    gemm(q.gemm, False, False, 2 * N, I, G, d, G, <const real *>q.w_ih, I, <real>0, dx, I)
    if v.w_ih != NULL:
        gemm(q.gemm, False, False, N, I, G, d, 2 * G, <const real *>v.w_ih, I, <real>1, dx + I,
             2 * I)
    pair(q, G, I, N, d, <const real *>q.x, <const real *>v.x, <real *>q.dw_ih)
    pair(q, G, P, N, d, h_slot(tag, q, q.reverse), h_slot(tag, v, q.reverse), <real *>q.dw_hh)
    if q.w_proj != NULL:
        pair(q, P, H, N, <const real *>q.dh_all, <const real *>q.m, <const real *>v.m,
             <real *>q.dw_proj)
    if db != NULL:
        memset(db, 0, 2 * G * sizeof(real))
        for r in range(N):
            for j in range(2 * G):
                db[j] += d[r * 2 * G + j]
    if q.peepholes:
        sum_peepholes(tag, a)


cdef inline void pair(
    const fl_lstm *q, Py_ssize_t m, Py_ssize_t n, Py_ssize_t rows, const real *d, const real *x,
    const real *tx, real *dw,
) noexcept nogil:
    """dw (2,m,n): d^T x, and its tangent td^T x + d^T tx; d (rows,2,m), x (rows,n)."""
    gemm(q.gemm, True, False, 2 * m, n, rows, d, 2 * m, x, n, <real>0, dw, n)
    if tx != NULL:
        gemm(q.gemm, True, False, m, n, rows, d, 2 * m, tx, n, <real>1, dw + m * n, n)


cdef inline void sum_peepholes(const real *tag, Pass *a) noexcept nogil:
    """dw_peephole (2,3,H): sums of da c and of its tangent; i, f see c[t-1], o sees c[t]."""
    cdef const fl_lstm *q = &a.q
    cdef const fl_lstm *v = &a.v
    cdef Py_ssize_t H = q.H, G = 4 * q.H, k, r, j, seen
    cdef real *dp = <real *>q.dw_peephole
    cdef const real *d
    cdef const real *c
    cdef const real *tc
    memset(dp, 0, 6 * H * sizeof(real))
    for k in range(3):
        if not q.peepholes & (1 << k):  # FL_PEEPHOLE_I, _F, _O are 1, 2, 4
            continue
        seen = 1 - q.reverse if k == 2 else q.reverse  # T slots from this one
        c, tc = c_slot(tag, q, seen), c_slot(tag, v, seen)
        d = <const real *>a.d + (3 if k == 2 else k) * H
        for r in range(q.T * q.B):
            for j in range(H):
                dp[k * H + j] += d[r * 2 * G + j] * c[r * H + j]
                dp[(3 + k) * H + j] += (d[r * 2 * G + G + j] * c[r * H + j]
                                        + d[r * 2 * G + j] * tc[r * H + j])


# -- arrays --------------------------------------------------------------------------------------

cdef inline void *address(a) except? NULL:
    """Where the numbers of a contiguous array are; NULL for None."""
    return NULL if a is None else <void *><uintptr_t>a.ctypes.data


cdef int describe(fl_lstm *q, moved, dict a) except -1:
    """The sizes, and where the arrays ``a`` are."""
    inputs, spec = moved.inputs, moved.inputs.spec
    q.T, q.B, q.I = moved.primal["x"].shape
    q.H, q.P, q.reverse = inputs.H, inputs.P, inputs.reverse
    q.U, q.L, q.h_row = 1, q.H, q.P
    q.state_slots, q.gate_slots, q.m_slots = q.T + 1, max(1, q.T), max(1, q.T)
    q.active = <const Py_ssize_t *>address(moved.active)
    q.gemm = blas_gemm(inputs.x.dtype == np.float64)
    q.coupled = spec.coupled
    q.cell_clip = spec.cell_clip or 0
    for gate, bit in zip("ifo", (FL_PEEPHOLE_I, FL_PEEPHOLE_F, FL_PEEPHOLE_O)):
        if gate in spec.peepholes:
            q.peepholes |= bit
    q.x, q.h, q.c = address(a["x"]), address(a["h"]), address(a["c"])
    q.gates, q.m = address(a["gates"]), address(a["m"])
    q.w_ih, q.w_hh = address(a.get("w_ih")), address(a.get("w_hh"))
    q.b, q.w_proj = address(a.get("b")), address(a.get("w_proj"))
    q.w_peephole = address(a.get("w_peephole"))
    return 0


cdef int prepare(Pass *a, Job *job, moved) except -1:
    """What the loops are told; the rest 0."""
    memset(job, 0, sizeof(Job))
    memset(a, 0, sizeof(Pass))
    describe(&a.q, moved, moved.primal)
    describe(&a.v, moved, moved.tangent)
    a.s_c = address(moved.s_c)
    return 0


def tangent_forward(tape, v):
    """The tangents of an engine's forward pass.

    Parameters
    ----------
    tape : Tape
        Not consumed; it stays as it is.
    v : Inputs
        As from `tangent_checks.tangent_inputs`; those that are zeros may be None, but not that
        of w_peephole.

    Returns
    -------
    ty, (th_n, tc_n)
        As from `lstm_jvp`.
    moved : Moved
        For `tangent_backward`.
    """
    moved = Moved(tape, v)
    cdef Pass a
    cdef Job job
    prepare(&a, &job, moved)
    cdef bint is_f64 = tape.inputs.x.dtype == np.float64
    with nogil:
        job.denormals = fl_flush_denormals()
        if is_f64:
            jvp_loop(<double *>NULL, &a, &job)
        else:
            jvp_loop(<float *>NULL, &a, &job)
        fl_restore_denormals(job.denormals)
    interrupted(&job)
    after = slice(0, a.q.T) if a.q.reverse else slice(1, a.q.T + 1)
    ty = moved.full(moved.tangent["h"][after])
    return ty, (moved.end("h", v.h0), moved.end("c", v.c0)), moved


def tangent_backward(moved, u, tu):
    """The gradients and their tangents, as from `lstm_hvp`.

    Parameters
    ----------
    moved : Moved
        From `tangent_forward`.
    u, tu : triple dy, dh_n, dc_n
        What comes from above, as arrays or None, and its tangent. dy is None only where tdy is.
    """
    q, dtype = moved.inputs, moved.inputs.x.dtype
    T, B = moved.primal["x"].shape[:2]
    cdef Pass a
    cdef Job job
    prepare(&a, &job, moved)
    dy, tdy = (None if g is None else moved.rows(g) for g in (u[0], tu[0]))
    dh, dc = np.zeros((B, 2, q.P), dtype), np.zeros((B, 2, q.H), dtype)
    for k, (_, dh_n, dc_n) in enumerate((u, tu)):
        for d0, d_n in ((dh, dh_n), (dc, dc_n)):
            if d_n is not None:
                d0[:, k] = d_n if moved.order is None else d_n[moved.order]
    # Rows that have no step any more must be 0 in the sums
    d, dx = np.zeros((T, B, 2, 4 * q.H), dtype), np.empty((T, B, 2, q.I), dtype)
    dw = {name: np.empty((2, *w.shape), dtype) for name, w in q.weights.items()}
    dh_all = dm = None
    if q.w_proj is not None:
        dh_all, dm = np.zeros((T, B, 2, q.P), dtype), np.empty((B, 2, q.H), dtype)
    a.d, a.dm, a.q.dh_all, a.q.dx = address(d), address(dm), address(dh_all), address(dx)
    a.q.dy, a.v.dy, a.q.dh, a.q.dc = address(dy), address(tdy), address(dh), address(dc)
    a.q.dw_ih, a.q.dw_hh = address(dw["w_ih"]), address(dw["w_hh"])
    a.q.db, a.q.dw_proj = address(dw.get("b")), address(dw.get("w_proj"))
    a.q.dw_peephole = address(dw.get("w_peephole"))
    cdef bint is_f64 = dtype == np.float64
    with nogil:
        job.denormals = fl_flush_denormals()
        if is_f64:
            hvp_loop(<double *>NULL, &a, &job)
            if not job.interrupted:
                sum_pairs(<double *>NULL, &a)
        else:
            hvp_loop(<float *>NULL, &a, &job)
            if not job.interrupted:
                sum_pairs(<float *>NULL, &a)
        fl_restore_denormals(job.denormals)
    interrupted(&job)
    results = []
    for k, (_, dh_n, dc_n) in enumerate((u, tu)):
        states = []
        for d0, d_n in ((dh, dh_n), (dc, dc_n)):
            state = np.ascontiguousarray(d0[:, k])
            if moved.order is not None:
                engine, state = state, np.zeros((q.B, state.shape[1]), dtype)
                if d_n is not None:
                    state[...] = d_n
                state[moved.order] = engine
            states.append(state)
        weights = {name: w[k] for name, w in dw.items()}
        results.append((moved.full(dx[:, :, k]), tuple(states), weights))
    return tuple(results)


# -- the functional API --------------------------------------------------------------------------

def lstm_jvp(primals, tangents, *, lengths=None, reverse=False, spec=Spec()):
    y, state, tape = primal_pass(primals, lengths, reverse, spec)
    ty, tstate, _ = tangent_forward(tape, tangent_checks.tangent_inputs(tape, tangents))
    return y, state, (ty, tstate)


def lstm_hvp(primals, tangents, dy=None, dstate=None, tdy=None, tdstate=None, *, lengths=None,
             reverse=False, spec=Spec()):
    _, _, tape = primal_pass(primals, lengths, reverse, spec)
    v = tangent_checks.tangent_inputs(tape, tangents)
    u, tu = tangent_checks.cotangent_inputs(tape, dy, dstate, tdy, tdstate)
    _, _, moved = tangent_forward(tape, v)
    return tangent_backward(moved, u, tu)


def primal_pass(primals, lengths, reverse, spec):
    """The engine's forward pass."""
    given = tangent_checks.forward_arguments(primals, spec)
    return _engine.lstm_forward(**given, lengths=lengths, reverse=reverse, spec=spec)


lstm_jvp.__doc__ = reference.lstm_jvp.__doc__
lstm_hvp.__doc__ = reference.lstm_hvp.__doc__
