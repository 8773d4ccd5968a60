# SPDX-License-Identifier: MIT
"""The loops over time of GRU, RNN and sLSTM, and the gradients of the weights after them.

Rows are in order of length, longest first, so that the rows with a step t are the first
``active[t]``; W_ih x[t] is formed for a chunk of time at once, into the rows of the tape; and after
the backward loop one product each gives dx and the gradients of the weights. A step is one of
`_sibling_cells`.
"""

from libc.string cimport memcpy, memset

from ._blas cimport gemm
from ._loops cimport is_time
from ._sibling_cells cimport (
    GRU, RNN, STATES, Sibling, gru_backward as gru_step_backward, gru_forward as gru_step,
    rnn_backward as rnn_step_backward, rnn_forward as rnn_step,
    slstm_backward as slstm_step_backward, slstm_forward as slstm_step,
)

cdef extern from "Python.h":
    int PyErr_CheckSignals()  # without Cython's check: Sibling.interrupted keeps the answer

ctypedef fused real:
    float
    double

cdef enum Task:
    FORWARD, BACKWARD, GRADIENTS

cdef enum: CHUNK = 1 << 18  # numbers in one chunk of the projection


cdef inline real *slot(const real *tag, const Sibling *q, int k, Py_ssize_t t) noexcept nogil:
    """State k in this slot of time."""
    return <real *>q.states[k] + t % q.slots * q.B * q.H


cdef inline void look_for_ctrl_c(Sibling *q) noexcept nogil:
    """When it is time: the GIL may have to be waited for."""
    if is_time(&q.looked):
        with gil:
            q.interrupted = PyErr_CheckSignals() != 0


cdef inline Py_ssize_t patience_of(const Sibling *q) noexcept nogil:
    """Rows in about 5 ms of work at 10 GFLOP/s: how often `look_for_ctrl_c` asks how late it is."""
    return 1 + 50000000 // (2 * q.G * (q.I + q.H) + 1)


cdef inline bint to_stop(Sibling *q, Py_ssize_t *done, Py_ssize_t patience) noexcept nogil:
    """After a step: whether Ctrl-C ends the loop, which has seen ``done`` rows since it looked."""
    done[0] += q.B
    if done[0] < patience:
        return False
    done[0] = 0
    look_for_ctrl_c(q)
    return q.interrupted


cdef inline void enter(
    const real *tag, const Sibling *q, Py_ssize_t t, Py_ssize_t r0, Py_ssize_t r1
) noexcept nogil:
    """Rows r0 <= r < r1 start: their initial states go to this slot."""
    cdef Py_ssize_t n = (r1 - r0) * q.H
    cdef int k
    if r1 <= r0:
        return
    for k in range(q.S):
        if q.initial[k] == NULL:
            memset(slot(tag, q, k, t) + r0 * q.H, 0, n * sizeof(real))
        else:
            memcpy(slot(tag, q, k, t) + r0 * q.H, <const real *>q.initial[k] + r0 * q.H,
                   n * sizeof(real))


cdef inline void leave(
    const real *tag, const Sibling *q, Py_ssize_t t, Py_ssize_t r0, Py_ssize_t r1
) noexcept nogil:
    """Rows r0 <= r < r1 end: their final states come from this slot."""
    cdef int k
    if r1 <= r0:
        return
    for k in range(q.S):
        memcpy(<real *>q.final[k] + r0 * q.H, slot(tag, q, k, t) + r0 * q.H,
               (r1 - r0) * q.H * sizeof(real))


cdef inline void find_states(
    const real *tag, const Sibling *q, Py_ssize_t t, real **start, real **end
) noexcept nogil:
    """Where step t finds its states and where it leaves them; zeros where a row is reset."""
    cdef Py_ssize_t r, n = q.active[t]
    cdef int k
    cdef bint any_reset = False
    for k in range(q.S):
        start[k] = slot(tag, q, k, t + q.reverse)
        end[k] = slot(tag, q, k, t + 1 - q.reverse)
    if q.reset == NULL:
        return
    for r in range(n):
        any_reset = any_reset or q.reset[t * q.B + r] != 0
    if not any_reset:
        return
    for k in range(q.S):
        memcpy(<real *>q.start + k * q.B * q.H, start[k], n * q.H * sizeof(real))
        start[k] = <real *>q.start + k * q.B * q.H
        for r in range(n):
            if q.reset[t * q.B + r]:
                memset(start[k] + r * q.H, 0, q.H * sizeof(real))


cdef inline void forward_loop(const real *tag, Sibling *q) noexcept nogil:
    cdef Py_ssize_t s, t, t0, t1, r, rows, rows_next, chunk = -1, size, H = q.H, done = 0
    cdef Py_ssize_t patience = patience_of(q)
    cdef real *start[STATES]
    cdef real *end[STATES]
    cdef real *gates
    cdef int k
    size = max(1, min(q.gate_slots, CHUNK // (q.K * q.B + 1)))
    t = q.T - 1 if q.reverse else 0
    rows = q.active[t]
    enter(tag, q, t + q.reverse, 0, rows)
    for s in range(q.T):
        t = q.T - 1 - s if q.reverse else s
        if t // size != chunk:
            chunk = t // size
            t0, t1 = chunk * size, min(q.T, (chunk + 1) * size)
            gemm(q.gemm, False, True, (t1 - t0) * q.B, q.G, q.I,
                 <const real *>q.x + t0 * q.B * q.I, q.I, <const real *>q.w_ih, q.I, <real>0,
                 <real *>q.gates + t0 % q.gate_slots * q.B * q.K, q.K)
        gates = <real *>q.gates + t % q.gate_slots * q.B * q.K
        find_states(tag, q, t, start, end)
        if q.kind == GRU:
            gru_step(tag, q, t, start, end, gates)
        elif q.kind == RNN:
            rnn_step(tag, q, t, start, end, gates)
        else:
            slstm_step(tag, q, t, start, end, gates)
        for r in range(rows):
            if q.mask != NULL and not q.mask[t * q.B + r]:
                memset(gates + r * q.K, 0, q.K * sizeof(real))
                for k in range(q.S):
                    memcpy(end[k] + r * H, start[k] + r * H, H * sizeof(real))
            memcpy(<real *>q.y + t * q.y_t + r * q.y_b, end[0] + r * H, H * sizeof(real))
        rows_next = 0 if s + 1 == q.T else q.active[t - 1 if q.reverse else t + 1]
        leave(tag, q, t + 1 - q.reverse, rows_next, rows)
        enter(tag, q, t + 1 - q.reverse, rows, rows_next)
        rows = rows_next
        if to_stop(q, &done, patience):
            return


cdef inline void backward_loop(const real *tag, Sibling *q) noexcept nogil:
    cdef Py_ssize_t s, t, r, j, H = q.H, done = 0, patience = patience_of(q)
    cdef real *start[STATES]
    cdef real *end[STATES]
    cdef real *gates
    cdef real *dh = <real *>q.d[0]
    cdef const real *dy
    cdef int k
    for s in range(q.T):
        t = s if q.reverse else q.T - 1 - s
        gates = <real *>q.gates + t * q.B * q.K
        if q.dy != NULL:  # y[t] is h[t]
            for r in range(q.active[t]):
                dy = <const real *>q.dy + t * q.dy_t + r * q.dy_b
                for j in range(H):
                    dh[r * H + j] += dy[j]
        find_states(tag, q, t, start, end)
        if q.kind == GRU:
            gru_step_backward(tag, q, t, start, end, gates)
        elif q.kind == RNN:
            rnn_step_backward(tag, q, t, start, end, gates)
        else:
            slstm_step_backward(tag, q, t, start, end, gates)
        if q.reset != NULL:
            for r in range(q.active[t]):
                if q.reset[t * q.B + r]:
                    for k in range(q.S):
                        memset(<real *>q.d[k] + r * H, 0, H * sizeof(real))
        if to_stop(q, &done, patience):
            return


cdef inline void gradients(const real *tag, Sibling *q) noexcept nogil:
    """dx, dw_ih, dw_hh, db from the tape, in pieces between which Ctrl-C is looked for."""
    cdef Py_ssize_t N = q.T * q.B, K = q.K, r0 = 0, r1, r, j, piece = max(512, 10 * patience_of(q))
    cdef const real *h = slot(tag, q, 0, q.reverse)
    cdef real *db = <real *>q.db
    cdef real *a
    cdef real beta = 0
    if db != NULL:
        memset(db, 0, K * sizeof(real))
    while r0 < N:
        r1 = min(N, r0 + piece)
        a = <real *>q.gates + r0 * K
        gemm(q.gemm, False, False, r1 - r0, q.I, q.G, a, K, <const real *>q.w_ih, q.I, <real>0,
             <real *>q.dx + r0 * q.I, q.I)
        gemm(q.gemm, True, False, q.G, q.I, r1 - r0, a, K, <const real *>q.x + r0 * q.I, q.I, beta,
             <real *>q.dw_ih, q.I)
        recurrent_gradient(q, r1 - r0, a, h + r0 * q.H, beta)
        if db != NULL:
            for r in range(r1 - r0):
                for j in range(K):
                    db[j] += a[r * K + j]
        r0, beta = r1, 1
        look_for_ctrl_c(q)
        if q.interrupted:
            return


cdef inline void recurrent_gradient(
    Sibling *q, Py_ssize_t n, const real *a, const real *h, real beta
) noexcept nogil:
    """dw_hh += of n rows of the tape and the states before them."""
    cdef Py_ssize_t H = q.H, D = q.H // q.N, k, g
    cdef real *dw = <real *>q.dw_hh
    if q.kind == RNN:
        gemm(q.gemm, True, False, H, H, n, a, H, h, H, beta, dw, H)
    elif q.kind == GRU:
        gemm(q.gemm, True, False, 2 * H, H, n, a, 4 * H, h, H, beta, dw, H)
        if q.reset_after:
            gemm(q.gemm, True, False, H, H, n, a + 3 * H, 4 * H, h, H, beta, dw + 2 * H * H, H)
        else:
            gemm(q.gemm, True, False, H, H, n, a + 2 * H, 4 * H, a + 3 * H, 4 * H, beta,
                 dw + 2 * H * H, H)
    else:
        for k in range(q.N):
            for g in range(4):
                gemm(q.gemm, True, False, D, D, n, a + g * H + k * D, 5 * H, h + k * D, H, beta,
                     dw + (4 * k + g) * D * D, D)


cdef inline void do_task(const real *tag, Sibling *q, int task) noexcept nogil:
    if task == FORWARD:
        forward_loop(tag, q)
    elif task == BACKWARD:
        backward_loop(tag, q)
    else:
        gradients(tag, q)
