# SPDX-License-Identifier: MIT
"""The loops over time, forward and backward, of one LSTM layer in one direction.

`lstm_forward` and `lstm_backward` have the arguments and results of `fastlstm.reference`, which
says what they compute. Here is how:

* The arguments are checked (`checks`), then everything runs on pointers without the GIL.
* Rows of different length are put in order, longest first, and rows without a step are left out.
  So the rows that have a step t are the first ``active[t]``, and nothing is computed in vain.
* x[t] W_ih^T is formed for a chunk of time at once, straight into the buffer of the gates; a step
  adds h[t-1] W_hh^T there and activates the gates in place.
* The backward loop replaces the gates by their gradients in place. After it one product each
  gives dw_hh, dw_ih and dx: their sums run over all steps and rows.
"""

from cpython.buffer cimport PyBUF_STRIDES, PyBuffer_Release, PyObject_GetBuffer
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport uintptr_t
from libc.string cimport memcpy, memset

import numpy as np

from . import checks, reference
from .spec import Spec
from .tape import Tape

from ._blas cimport gemm_f32_t, gemm_f64_t
from ._gates cimport (
    fl_squash, gates_backward, gates_forward, libm_sigmoid_f32, libm_sigmoid_f64, libm_tanh_f32,
    libm_tanh_f64,
)

__all__ = ["elementwise", "get_isa", "isas", "load_blas", "lstm_backward", "lstm_forward", "set_isa"]

ctypedef fused real:
    float
    double

cdef extern from "fastlstm.h":
    ctypedef struct fl_kernels:
        const char *isa
        fl_squash *sigmoid
        fl_squash *tanh
    const fl_kernels *fl_kernels_for(const char *isa) nogil
    const char *fl_best_isa() nogil
    const char *const *fl_isas() nogil

cdef extern from "lstm.h":
    ctypedef struct fl_lstm:
        Py_ssize_t T, B, I, H, P, U, L
        bint reverse
        const Py_ssize_t *active
        const void *x
        const void *w_ih
        const void *w_hh
        const void *b
        const void *w_proj
        const void *h0
        const void *c0
        void *y
        Py_ssize_t y_t, y_b
        void *h_n
        void *c_n
        void *h
        void *c
        void *gates
        void *m
        Py_ssize_t state_slots, gate_slots, m_slots, h_row
        const void *dy
        Py_ssize_t dy_t, dy_b
        void *dh
        void *dc
        void *dx
        void *dw_ih
        void *dw_hh
        void *db
        void *dw_proj
        void *dh_all

cdef Py_ssize_t CHUNK = 1 << 18  # gates in one chunk of an inference: 1 MiB of float32, which stays in L2

cdef gemm_f32_t gemm_f32 = NULL
cdef gemm_f64_t gemm_f64 = NULL


def load_blas():
    """Fetch the matrix product from `_blas`, which imports SciPy's BLAS; once."""
    global gemm_f32, gemm_f64
    if gemm_f32 == NULL:
        from . import _blas
        f32, f64 = _blas.addresses()
        gemm_f32, gemm_f64 = <gemm_f32_t><uintptr_t>f32, <gemm_f64_t><uintptr_t>f64


cdef inline void gemm(
    bint trans_a, bint trans_b, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k,
    const real *a, Py_ssize_t lda, const real *b, Py_ssize_t ldb,
    real beta, real *c, Py_ssize_t ldc,
) noexcept nogil:
    """C (m, n) := op(A) op(B) + beta C, row-major."""
    if real is float:
        gemm_f32(trans_a, trans_b, m, n, k, a, lda, b, ldb, beta, c, ldc)
    else:
        gemm_f64(trans_a, trans_b, m, n, k, a, lda, b, ldb, beta, c, ldc)


cdef const fl_kernels *kernels = fl_kernels_for(fl_best_isa())  # NULL: none


def isas():
    """The names of the instruction sets that `set_isa` accepts on this machine, fastest first."""
    names, k = [], 0
    while fl_isas()[k] != NULL:
        if fl_kernels_for(fl_isas()[k]) != NULL:
            names.append(fl_isas()[k].decode())
        k += 1
    return [*names, "none"]


def get_isa():
    """The instruction set in use: "avx512", "avx2", "neon" or "none"."""
    return "none" if kernels == NULL else kernels.isa.decode()


def set_isa(name):
    """Use the kernels of another instruction set from now on; returns the one before."""
    global kernels
    before = get_isa()
    if name not in isas():
        raise ValueError(f"isa must be one of {', '.join(isas())} on this machine, got {name!r}")
    kernels = fl_kernels_for(name.encode())
    return before


cdef inline fl_squash squash(bint is_f64, bint is_tanh) noexcept nogil:
    """sigmoid or tanh for arrays of this type."""
    if kernels != NULL:
        return kernels.tanh[is_f64] if is_tanh else kernels.sigmoid[is_f64]
    if is_f64:
        return libm_tanh_f64 if is_tanh else libm_sigmoid_f64
    return libm_tanh_f32 if is_tanh else libm_sigmoid_f32


def elementwise(name, x):
    """sigmoid(x) or tanh(x) as the engine computes them; x is float32 or float64, contiguous."""
    y = np.empty_like(x)
    cdef void *src = address(x)
    cdef void *to = address(y)
    cdef Py_ssize_t n = x.size
    cdef fl_squash function = squash(x.dtype == np.float64, name == "tanh")
    function(src, to, n)
    return y


cdef inline Py_ssize_t steps_between_signals(const fl_lstm *q) noexcept nogil:
    """About 50 ms of work at 10 GFLOP/s: how often Ctrl-C is looked for."""
    return 1 + 500000000 // (8 * q.B * q.H * (q.P + q.I) + 1)


cdef int look_for_ctrl_c() except -1 nogil:
    with gil:
        return PyErr_CheckSignals()


cdef inline void copy_rows(
    real *to, Py_ssize_t to_row, const real *src, Py_ssize_t src_row, Py_ssize_t n, Py_ssize_t rows
) noexcept nogil:
    """``rows`` rows of n numbers each."""
    cdef Py_ssize_t r
    for r in range(rows):
        memcpy(to + r * to_row, src + r * src_row, n * sizeof(real))


cdef void project_chunk(const real *tag, const fl_lstm *q, Py_ssize_t start) noexcept nogil:
    """gates[t] := x[t] W_ih^T for the steps from ``start`` that one pass through gates holds."""
    cdef Py_ssize_t G = 4 * q.H, steps = min(q.T - start, q.gate_slots)
    gemm(False, True, steps * q.B, G, q.I, <const real *>q.x + start * q.B * q.I, q.I,
         <const real *>q.w_ih, q.I, <real>0, <real *>q.gates, G)


cdef int time_forward(const real *tag, const fl_lstm *q) except -1 nogil:
    """All steps of the forward pass, on BLAS."""
    cdef Py_ssize_t B = q.B, H = q.H, P = q.P, G = 4 * H
    cdef Py_ssize_t s, t, r, before, after, n, n_last = 0, n_next, chunk = -1
    cdef Py_ssize_t patience = steps_between_signals(q)
    cdef fl_squash sigmoid_ = squash(sizeof(real) == 8, False), tanh_ = squash(sizeof(real) == 8, True)
    cdef real *gates
    cdef real *h_prev
    cdef real *h_next
    cdef real *c_prev
    cdef real *c_next
    cdef real *m
    cdef real *y

    for s in range(q.T):
        t = q.T - 1 - s if q.reverse else s
        before, after = (t + q.reverse) % q.state_slots, (t + 1 - q.reverse) % q.state_slots
        h_prev, h_next = <real *>q.h + before * B * P, <real *>q.h + after * B * P
        c_prev, c_next = <real *>q.c + before * B * H, <real *>q.c + after * B * H
        gates = <real *>q.gates + t % q.gate_slots * B * G
        y = <real *>q.y + t * q.y_t
        m = <real *>q.m + t % q.m_slots * B * H
        n = q.active[t]
        if n > n_last:  # rows that start here
            r = n_last * P
            memcpy(h_prev + r, <real *>q.h0 + r, (n - n_last) * P * sizeof(real))
            r = n_last * H
            memcpy(c_prev + r, <real *>q.c0 + r, (n - n_last) * H * sizeof(real))
        if t // q.gate_slots != chunk:
            chunk = t // q.gate_slots
            project_chunk(tag, q, chunk * q.gate_slots)

        # gates += h[t-1] W_hh^T
        gemm(False, True, n, G, P, h_prev, P, <const real *>q.w_hh, P, <real>1, gates, G)
        for r in range(n):
            gates_forward(H, sigmoid_, tanh_, gates + r * G, <const real *>q.b,
                          c_prev + r * H, c_next + r * H,
                          (h_next if q.w_proj == NULL else m) + r * H)
        if q.w_proj != NULL:  # h[t] = m W_proj^T
            gemm(False, True, n, P, H, m, H, <const real *>q.w_proj, H, <real>0, h_next, P)
        copy_rows(y, q.y_b, h_next, P, P, n)

        if s + 1 == q.T:
            n_next = 0
        else:
            n_next = q.active[t - 1 if q.reverse else t + 1]
        if n > n_next:  # rows that end here
            r = n_next * P
            memcpy(<real *>q.h_n + r, h_next + r, (n - n_next) * P * sizeof(real))
            r = n_next * H
            memcpy(<real *>q.c_n + r, c_next + r, (n - n_next) * H * sizeof(real))
        n_last = n
        if (s + 1) % patience == 0:
            look_for_ctrl_c()
    return 0


cdef int time_backward(const real *tag, const fl_lstm *q) except -1 nogil:
    """All steps of the backward pass, on BLAS: gates become dgates; dh, dc end as dh0, dc0."""
    cdef Py_ssize_t B = q.B, H = q.H, P = q.P, G = 4 * H
    cdef Py_ssize_t s, t, r, j, n
    cdef Py_ssize_t patience = steps_between_signals(q)
    cdef fl_squash tanh_ = squash(sizeof(real) == 8, True)
    cdef real *gates
    cdef real *c_prev
    cdef real *c_next
    cdef real *dh_t
    cdef real *dm
    cdef const real *dy
    cdef real *scratch = <real *>q.m  # (2 B H) here: tanh(c) of one row, and dm

    for s in range(q.T):
        t = s if q.reverse else q.T - 1 - s
        n = q.active[t]
        gates = <real *>q.gates + t * B * G
        c_prev = <real *>q.c + (t + q.reverse) * B * H
        c_next = <real *>q.c + (t + 1 - q.reverse) * B * H
        dm = <real *>q.dh
        if q.dy != NULL:  # y[t] is h[t]
            for r in range(n):
                dh_t = <real *>q.dh + r * P
                dy = <const real *>q.dy + t * q.dy_t + r * q.dy_b
                for j in range(P):
                    dh_t[j] += dy[j]
        if q.w_proj != NULL:  # h[t] = W_proj m: dm = dh W_proj
            memcpy(<real *>q.dh_all + t * B * P, q.dh, n * P * sizeof(real))
            dm = scratch + H
            gemm(False, False, n, H, P, <const real *>q.dh, P, <const real *>q.w_proj, H,
                 <real>0, dm, H)
        for r in range(n):
            gates_backward(H, tanh_, gates + r * G, c_prev + r * H, c_next + r * H, scratch,
                           dm + r * H, <real *>q.dc + r * H)
        # a = W_hh h[t-1] + ...: dh[t-1] = dgates W_hh
        gemm(False, False, n, P, G, gates, G, <const real *>q.w_hh, P, <real>0, <real *>q.dh, P)
        if (s + 1) % patience == 0:
            look_for_ctrl_c()
    return 0


cdef void sum_gradients(const real *tag, const fl_lstm *q, const real *m) noexcept nogil:
    """dx, dw_ih, dw_hh, db, dw_proj from dgates: sums over all steps and rows."""
    cdef Py_ssize_t N = q.T * q.B, G = 4 * q.H, r, j
    cdef const real *dgates = <const real *>q.gates
    cdef const real *before = <const real *>q.h + q.reverse * q.B * q.P  # h[t-1] for all t
    cdef real *db = <real *>q.db
    gemm(False, False, N, q.I, G, dgates, G, <const real *>q.w_ih, q.I, <real>0,
         <real *>q.dx, q.I)  # dx = dgates W_ih
    gemm(True, False, G, q.I, N, dgates, G, <const real *>q.x, q.I, <real>0,
         <real *>q.dw_ih, q.I)  # dw_ih = dgates^T x
    gemm(True, False, G, q.P, N, dgates, G, before, q.P, <real>0,
         <real *>q.dw_hh, q.P)  # dw_hh = dgates^T h[t-1]
    if db != NULL:
        for r in range(N):
            for j in range(G):
                db[j] += dgates[r * G + j]
    if q.w_proj != NULL:  # dw_proj = dh^T m
        gemm(True, False, q.P, q.H, N, <const real *>q.dh_all, q.P, m, q.H, <real>0,
             <real *>q.dw_proj, q.H)


cdef void *address(a) except? NULL:
    """Where the array's numbers are; NULL for None."""
    cdef Py_buffer view
    if a is None:
        return NULL
    PyObject_GetBuffer(a, &view, PyBUF_STRIDES)
    PyBuffer_Release(&view)  # the array stays alive in the caller's hands
    return view.buf


def contiguous(a):
    """``a`` with its numbers in C order, or None."""
    return None if a is None else np.ascontiguousarray(a)


def by_length(lengths, T, B):
    """How the engine orders its rows: longest first, without those of length 0.

    Returns
    -------
    order : ndarray (B',) of intp, or None
        The engine's row k is the caller's row order[k]; None: the caller's order.
    active : ndarray (T,) of intp
        How many rows have a step t.
    """
    if lengths is None:
        return None, np.full(T, B, np.intp)
    order = np.argsort(-lengths, kind="stable")[: np.count_nonzero(lengths)]
    return order, np.count_nonzero(lengths[order, None] > np.arange(T), axis=0).astype(np.intp)


def sequence_input(q, order):
    """x (T, B', I) in the engine's rows, zeros beyond a row's length."""
    if order is None:
        return np.ascontiguousarray(q.x)
    x = q.x.take(order, axis=1)
    x[np.arange(q.T)[:, None] >= q.lengths[order]] = 0
    return x


cdef void describe(fl_lstm *q, inputs, Py_ssize_t B, active, weights) except *:
    """The sizes, the rows and the weights; the rest 0."""
    memset(q, 0, sizeof(fl_lstm))
    q.T, q.B, q.I, q.H, q.P = inputs.T, B, inputs.I, inputs.H, inputs.P
    q.U, q.L, q.h_row = 1, q.H, q.P
    q.reverse = inputs.reverse
    q.active = <const Py_ssize_t *>address(active)
    w_ih, w_hh, b, w_proj = weights
    q.w_ih, q.w_hh = address(w_ih), address(w_hh)
    q.b, q.w_proj = address(b), address(w_proj)


def scatter_rows(others, rows, order):
    """The engine's ``rows`` in the caller's order; rows that it left out come from ``others``."""
    full = np.array(others, order="C")
    full[order] = rows
    return full


def lstm_forward(
    x, w_ih, w_hh, b=None, state=None, *, w_peephole=None, w_proj=None, w_fgr=None, ln_x=None,
    ln_h=None, ln_c=None, lengths=None, reverse=False, spec=Spec(), save=True, out=None,
):
    variants = dict(w_peephole=w_peephole, w_fgr=w_fgr, ln_x=ln_x, ln_h=ln_h, ln_c=ln_c)
    inputs = checks.forward_inputs(
        x, w_ih, w_hh, b, state, variants, w_proj, lengths, reverse, spec, out
    )
    load_blas()
    T, H, P, dtype = inputs.T, inputs.H, inputs.P, inputs.x.dtype
    order, active = by_length(inputs.lengths, T, inputs.B)
    B = inputs.B if order is None else len(order)
    x = sequence_input(inputs, order)
    weights = [contiguous(w) for w in (inputs.w_ih, inputs.w_hh, inputs.b, inputs.w_proj)]
    h0, c0 = (np.ascontiguousarray(s if order is None else s[order])
              for s in (inputs.h0, inputs.c0))
    new = np.empty if order is None else np.zeros
    direct = order is None and inputs.y.strides[2] == inputs.y.itemsize
    y = inputs.y if direct else new((T, B, P), dtype)
    state_slots = T + 1 if save else 2
    gate_slots = T if save else max(1, min(T, CHUNK // (4 * H * B + 1)))
    m_slots = T if save else 1
    h, c = new((state_slots, B, P), dtype), new((state_slots, B, H), dtype)
    gates = new((gate_slots, B, 1, 4, H), dtype)
    m = None if inputs.w_proj is None else new((m_slots, B, H), dtype)
    h_n, c_n = h0.copy(), c0.copy()
    if T == 0:  # else the first step of a row puts its initial state there
        h[0], c[0] = h0, c0

    cdef fl_lstm q
    describe(&q, inputs, B, active, weights)
    q.x, q.h0, q.c0 = address(x), address(h0), address(c0)
    q.y, q.y_t, q.y_b = address(y), y.strides[0] // y.itemsize, y.strides[1] // y.itemsize
    q.h_n, q.c_n = address(h_n), address(c_n)
    q.h, q.c, q.gates, q.m = (address(h), address(c), address(gates),
                              address(m))
    q.state_slots, q.gate_slots, q.m_slots = state_slots, max(1, gate_slots), max(1, m_slots)
    if B:
        if dtype == np.float32:
            with nogil:
                time_forward[float](NULL, &q)
        else:
            with nogil:
                time_forward[double](NULL, &q)

    if order is not None:
        inputs.y[...] = 0
        inputs.y[:, order] = y
        h_n, c_n = scatter_rows(inputs.h0, h_n, order), scatter_rows(inputs.c0, c_n, order)
    elif not direct:
        inputs.y[...] = y
    if not save:
        return inputs.y, (h_n, c_n), None
    inputs.w_ih, inputs.w_hh, inputs.b, inputs.w_proj = weights
    return inputs.y, (h_n, c_n), Tape(inputs, h, c, gates, m, order, x)


def lstm_backward(tape, dy=None, dstate=None, *, keep=False):
    inputs, dy, dh, dc = checks.backward_inputs(tape, dy, dstate)
    gates, order = tape.consume(keep), tape.order
    T, I, H, P, dtype = inputs.T, inputs.I, inputs.H, inputs.P, inputs.x.dtype
    weights = inputs.w_ih, inputs.w_hh, inputs.b, inputs.w_proj
    _, active = by_length(inputs.lengths, T, inputs.B)
    B = gates.shape[1]
    dh_n, dc_n = dh, dc
    if order is not None:
        dh, dc = dh[order], dc[order]
        dy = None if dy is None else dy.take(order, axis=1)
    if dy is not None and dy.strides[2] != dy.itemsize:
        dy = np.ascontiguousarray(dy)
    dx = np.empty((T, B, I), dtype)
    dw_ih, dw_hh, db, dw_proj = (None if w is None else np.zeros_like(w) for w in weights)
    dh_all = None if inputs.w_proj is None else np.zeros((T, B, P), dtype)
    scratch = np.empty(H if inputs.w_proj is None else H + B * H, dtype)

    cdef fl_lstm q
    describe(&q, inputs, B, active, weights)
    q.x, q.h, q.c, q.gates = address(tape.x), address(tape._h), address(tape._c), address(gates)
    q.state_slots, q.gate_slots, q.m_slots, q.m = T + 1, T, 1, address(scratch)
    if dy is not None:
        q.dy, q.dy_t, q.dy_b = address(dy), dy.strides[0] // dy.itemsize, dy.strides[1] // dy.itemsize
    q.dh, q.dc, q.dh_all, q.dx = address(dh), address(dc), address(dh_all), address(dx)
    q.dw_ih, q.dw_hh, q.db, q.dw_proj = (address(dw_ih), address(dw_hh), address(db),
                                         address(dw_proj))
    cdef const void *m = address(tape.h_raw)
    load_blas()
    if dtype == np.float32:
        with nogil:
            time_backward[float](NULL, &q)
            sum_gradients[float](NULL, &q, <const float *>m)
    else:
        with nogil:
            time_backward[double](NULL, &q)
            sum_gradients[double](NULL, &q, <const double *>m)

    if order is not None:
        dh, dc = scatter_rows(dh_n, dh, order), scatter_rows(dc_n, dc, order)
        dx = scatter_rows(np.zeros((inputs.B, T, I), dtype), dx.swapaxes(0, 1), order)
        dx = np.ascontiguousarray(dx.swapaxes(0, 1))
    grads = dict(w_ih=dw_ih, w_hh=dw_hh, b=db, w_proj=dw_proj)
    return dx, (dh, dc), {name: dw for name, dw in grads.items() if dw is not None}


lstm_forward.__doc__ = reference.lstm_forward.__doc__
lstm_backward.__doc__ = reference.lstm_backward.__doc__
