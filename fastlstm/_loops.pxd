# SPDX-License-Identifier: MIT
"""The loops over time: what each thread of the team does in a forward and in a backward pass.

A step is one of csrc/step.inc.h (SIMD, packed weights), which the team shares by rows or by units,
or one of `_blas_step`, which one thread does.
"""

from libc.string cimport memcpy, memset

from ._blas_step cimport c_slot, h_slot, project, step_backward, step_forward, sum_gradients
from ._csrc cimport (
    FL_PEEPHOLE_F, FL_PEEPHOLE_I, FL_PEEPHOLE_O, fl_bring_mark, fl_flag_is_up, fl_flush_denormals,
    fl_lstm, fl_mark, fl_now_ns, fl_raise_flag, fl_restore_denormals,
)
from ._job cimport Job, groups_of_panels, step_ns
from ._team cimport team_barrier

cdef extern from "Python.h":
    int PyErr_CheckSignals()  # without Cython's check: Job.interrupted keeps the answer
    unsigned long PyThread_get_thread_ident() nogil

ctypedef fused real:
    float
    double


cdef struct Share:  # what one thread does of a step
    Py_ssize_t b0, b1, u0, u1, v0, v1


cdef inline Share share_of(const Job *job, int thread, int n) noexcept nogil:
    cdef const fl_lstm *q = job.q
    cdef Py_ssize_t V = groups_of_panels(q)
    if job.by_units:
        return Share(0, q.B, q.U * thread // n, q.U * (thread + 1) // n,
                     V * thread // n, V * (thread + 1) // n)
    return Share(q.B * thread // n, q.B * (thread + 1) // n, 0, q.U, 0, V)


cdef inline void enter(
    const real *tag, const fl_lstm *q, const Share *my, Py_ssize_t slot, Py_ssize_t r0,
    Py_ssize_t r1,
) noexcept nogil:
    """Rows r0 <= r < r1 start: h0, c0 go to this slot, zeros beyond them."""
    cdef Py_ssize_t r, c_row = q.U * q.L
    cdef const real *h0 = <const real *>q.h0
    cdef const real *c0 = <const real *>q.c0
    for r in range(max(r0, my.b0), min(r1, my.b1)):
        place(h_slot(tag, q, slot) + r * q.h_row, q.h_row, h0, r * q.P, q.P, my, q)
        place(c_slot(tag, q, slot) + r * c_row, c_row, c0, r * q.H, q.H, my, q)


cdef inline void leave(
    const real *tag, const fl_lstm *q, const Share *my, Py_ssize_t slot, Py_ssize_t r0,
    Py_ssize_t r1,
) noexcept nogil:
    """Rows r0 <= r < r1 end: h_n, c_n come from this slot."""
    cdef Py_ssize_t r
    for r in range(max(r0, my.b0), min(r1, my.b1)):
        place(<real *>q.h_n + r * q.P, q.P, h_slot(tag, q, slot), r * q.h_row, q.P, my, q)
        place(<real *>q.c_n + r * q.H, q.H, c_slot(tag, q, slot), r * q.U * q.L, q.H, my, q)


cdef inline void restart(
    const real *tag, const Job *job, const Share *my, Py_ssize_t slot, Py_ssize_t t,
    Py_ssize_t rows,
) noexcept nogil:
    """Rows r < rows that are reset before step t: zeros go to this slot, their cells to c_kept."""
    cdef const fl_lstm *q = job.q
    cdef Py_ssize_t r, k, c_row = q.U * q.L, at = my.u0 * q.L, n = (my.u1 - my.u0) * q.L
    cdef real *c
    for r in range(my.b0, min(my.b1, rows)):
        k = job.resets[t * q.B + r]
        if k >= 0:
            c = c_slot(tag, q, slot) + r * c_row
            memcpy(<real *>job.c_kept + k * c_row + at, c + at, n * sizeof(real))
            place(h_slot(tag, q, slot) + r * q.h_row, q.h_row, <real *>NULL, 0, q.P, my, q)
            place(c, c_row, <real *>NULL, 0, q.H, my, q)
            if job.variant.ifo != NULL:  # full gate recurrence: no gates were before
                memset(<real *>job.variant.ifo + (slot % job.variant.ifo_slots * q.B + r) * 3 * q.H,
                       0, 3 * q.H * sizeof(real))


cdef inline void swap_kept(
    const real *tag, const Job *job, Py_ssize_t slot, Py_ssize_t t_from, Py_ssize_t r,
    Py_ssize_t at, Py_ssize_t n, bint back,
) noexcept nogil:
    """The cell before the reset of step t_from in its slot, for the step backward that ended in
    it; then `back`: zeros again. Lanes at <= j < at + n."""
    cdef const fl_lstm *q = job.q
    cdef Py_ssize_t c_row = q.U * q.L, k = job.resets[t_from * q.B + r]
    cdef real *c = c_slot(tag, q, slot) + r * c_row + at
    if back:
        memset(c, 0, n * sizeof(real))
    else:
        memcpy(c, <real *>job.c_kept + k * c_row + at, n * sizeof(real))


cdef inline void forget_gradient(
    const real *tag, const Job *job, Py_ssize_t r, Py_ssize_t at, Py_ssize_t n
) noexcept nogil:
    """Row r was reset: nothing reaches the steps before. Lanes at <= j < at + n of dh and dc."""
    cdef const fl_lstm *q = job.q
    memset(<real *>q.dc + r * q.U * q.L + at, 0, n * sizeof(real))
    if q.w_proj != NULL:  # h has other lanes than c; its steps are shared by rows only
        memset(<real *>q.dh + r * q.h_row, 0, q.h_row * sizeof(real))
    else:
        memset(<real *>q.dh + r * q.h_row + at, 0, n * sizeof(real))
    if job.variant.difo != NULL:
        memset(<real *>job.variant.difo + r * 3 * q.H, 0, 3 * q.H * sizeof(real))


cdef inline void place(
    real *to, Py_ssize_t size, const real *src, Py_ssize_t at, Py_ssize_t n, const Share *my,
    const fl_lstm *q,
) noexcept nogil:
    """to[:n] := src[at:at + n], to[n:size] := 0, in the columns of these units; NULL: zeros."""
    cdef Py_ssize_t start = my.u0 * q.L, stop = size if my.u1 == q.U else my.u1 * q.L
    cdef Py_ssize_t filled = start if src == NULL else min(max(n, start), stop)
    if filled > start:
        memcpy(to + start, src + at + start, (filled - start) * sizeof(real))
    memset(to + filled, 0, (stop - filled) * sizeof(real))


cdef enum: PATIENCE_NS = 50000000


cdef inline bint is_time(long long *looked) noexcept nogil:
    """Whether 50 ms have passed since Ctrl-C was looked for; then it is now. A count of operations
    alone would be late where other programs want the processors, too."""
    cdef long long now = fl_now_ns()
    if now - looked[0] < PATIENCE_NS:
        return False
    looked[0] = now
    return True


cdef inline Py_ssize_t steps_between_signals(const fl_lstm *q) noexcept nogil:
    """About 5 ms of work at 10 GFLOP/s: how often `look_for_ctrl_c` asks how late it is."""
    return 1 + 50000000 // (8 * q.B * q.H * (q.P + q.I) + 1)


# Rows of dgates in a piece of the weights' gradients: `gradient_block` of gradients.inc.h, or more.
cdef enum: GRADIENT_BLOCK = 512


cdef inline Py_ssize_t rows_between_signals(const fl_lstm *q) noexcept nogil:
    """About 50 ms of such work in rows of dgates, in whole blocks."""
    cdef Py_ssize_t rows = 500000000 // (8 * q.H * (q.P + q.I) + 1)
    return (rows + GRADIENT_BLOCK) // GRADIENT_BLOCK * GRADIENT_BLOCK


cdef inline bint is_caller(const Job *job) noexcept nogil:
    """Whether this thread made the call. It may do several shares, not only the first."""
    return PyThread_get_thread_ident() == job.caller


cdef inline void look_for_ctrl_c(Job *job, Py_ssize_t s) noexcept nogil:
    """When it is time: the GIL may have to be waited for."""
    if not is_time(&job.looked):
        return
    fl_restore_denormals(job.denormals)  # handlers are Python
    with gil:
        if PyErr_CheckSignals():
            fl_bring_mark(&job.stop_after, s)
            fl_raise_flag(&job.interrupted)
    fl_flush_denormals()


cdef inline bint stops(Job *job, Py_ssize_t s) noexcept nogil:
    """Whether no step after s is done: shares of units end together, behind the barrier."""
    return s >= fl_mark(&job.stop_after) if job.by_units else fl_flag_is_up(&job.interrupted)


cdef inline void meet(Job *job, Py_ssize_t s, int *n) noexcept nogil:
    """Wait for the others after step s. What a thread decides then, all act on one step later."""
    if n[0] > 1 and job.by_units:
        if team_barrier(n[0], step_ns(job, n[0])):
            fl_bring_mark(&job.alone_after, s + 1)
        if s >= fl_mark(&job.alone_after):
            n[0] = 1


cdef inline void forward_loop(const real *tag, Job *job, int thread, int n) noexcept nogil:
    """One thread's share of the forward pass."""
    cdef fl_lstm *q = job.q
    cdef bint is_f64 = sizeof(real) == 8
    cdef Share my = share_of(job, thread, n)
    cdef Py_ssize_t s, t, t1, rows, rows_next, chunk = -1
    cdef Py_ssize_t patience = steps_between_signals(q)
    cdef bint watches = is_caller(job)
    if q.T == 0 or stops(job, -1):
        return
    t = q.T - 1 if q.reverse else 0
    rows = q.active[t]
    enter(tag, q, &my, t + q.reverse, 0, rows)
    if job.resets != NULL:
        restart(tag, job, &my, t + q.reverse, t, rows)
    if n > 1 and job.by_units:
        team_barrier(n, step_ns(job, n))
    for s in range(q.T):
        t = q.T - 1 - s if q.reverse else s
        if not job.fused and t // job.chunk != chunk:
            chunk = t // job.chunk
            t1 = min(q.T, (chunk + 1) * job.chunk)
            if job.simd == NULL:
                project(tag, q, chunk * job.chunk, t1)
            else:
                job.simd.project[is_f64](q, chunk * job.chunk, t1, my.b0, my.b1, my.u0, my.u1)
        if job.simd == NULL:
            step_forward(tag, q, &job.variant, t)
        elif my.b0 < rows:
            job.simd.step_forward[is_f64](q, t, job.fused, my.b0, min(my.b1, rows), my.u0, my.u1)
        rows_next = 0 if s + 1 == q.T else q.active[t - 1 if q.reverse else t + 1]
        leave(tag, q, &my, t + 1 - q.reverse, rows_next, rows)
        enter(tag, q, &my, t + 1 - q.reverse, rows, rows_next)
        if job.resets != NULL and rows_next:
            restart(tag, job, &my, t + 1 - q.reverse, t - 1 if q.reverse else t + 1, rows_next)
        rows = rows_next
        if watches and (s + 1) % patience == 0:
            look_for_ctrl_c(job, s)
        meet(job, s, &n)
        if stops(job, s) or n <= thread:
            return
        my = share_of(job, thread, n)


cdef inline void backward_loop(const real *tag, Job *job, int thread, int n) noexcept nogil:
    """One thread's share of the backward pass."""
    cdef fl_lstm *q = job.q
    cdef Share my = share_of(job, thread, n)
    cdef Py_ssize_t s, t, t_from = -1, rows, rows_from = 0, both
    cdef Py_ssize_t patience = steps_between_signals(q)
    cdef bint watches = is_caller(job)
    if stops(job, -1):
        return
    for s in range(q.T + 1):
        t = -1 if s == q.T else s if q.reverse else q.T - 1 - s
        rows = 0 if t < 0 else q.active[t]
        both = min(rows, rows_from)
        if job.simd == NULL:
            if t >= 0:
                blas_step_backward(tag, job, t_from, t, both)
        else:
            backward_rows(tag, job, t_from, t, 0, both, &my)
            backward_rows(tag, job, t_from, -1, both, rows_from, &my)
            backward_rows(tag, job, -1, t, both, rows, &my)
        t_from, rows_from = t, rows
        if watches and (s + 1) % patience == 0:
            look_for_ctrl_c(job, s)
        meet(job, s, &n)
        if stops(job, s) or n <= thread:
            return
        my = share_of(job, thread, n)


cdef inline void gradient_work(void *arg, int thread, int n) noexcept nogil:
    """One share of dx (rows) and of the weights' gradients (units), when all dgates are there."""
    cdef Job *job = <Job *>arg
    cdef fl_lstm *q = job.q
    cdef Py_ssize_t N = q.T * q.B, patience = rows_between_signals(q), r
    cdef bint watches = is_caller(job)
    r = N * thread // n
    while r < N * (thread + 1) // n and not fl_flag_is_up(&job.interrupted):
        if job.simd != NULL:
            job.simd.input_gradient[job.is_f64](q, r, min(N * (thread + 1) // n, r + patience))
        r += patience
        if watches and r < N:
            look_for_ctrl_c(job, 0)
    r = 0
    while r < N and not fl_flag_is_up(&job.interrupted):
        if job.simd != NULL:
            job.simd.weight_gradient[job.is_f64](
                q, q.U * thread // n, q.U * (thread + 1) // n, r, min(N, r + patience),
                job.scratch + thread * job.scratch_size)
        elif job.is_f64:
            sum_gradients(<double *>NULL, q, &job.variant, r, min(N, r + patience))
        else:
            sum_gradients(<float *>NULL, q, &job.variant, r, min(N, r + patience))
        r += patience
        if watches and r < N:
            look_for_ctrl_c(job, 0)
    if fl_flag_is_up(&job.interrupted):
        return
    if job.simd != NULL:
        job.simd.peephole_gradient[job.is_f64](
            q, FL_PEEPHOLE_I | FL_PEEPHOLE_F | FL_PEEPHOLE_O, q.U * thread // n,
            q.U * (thread + 1) // n)
    if job.resets != NULL and q.peepholes & FL_PEEPHOLE_O and q.dw_peephole != NULL:
        if job.is_f64:
            kept_peephole_gradient(<double *>NULL, job, q.U * thread // n,
                                   q.U * (thread + 1) // n)
        else:
            kept_peephole_gradient(<float *>NULL, job, q.U * thread // n,
                                   q.U * (thread + 1) // n)


cdef inline void backward_rows(
    const real *tag, Job *job, Py_ssize_t t_from, Py_ssize_t t, Py_ssize_t r0, Py_ssize_t r1,
    const Share *my,
) noexcept nogil:
    """The step backward for the rows r0 <= r < r1 that are this thread's."""
    cdef fl_lstm *q = job.q
    cdef bint is_f64 = sizeof(real) == 8
    cdef Py_ssize_t r, run, slot = t + 1 - q.reverse
    cdef Py_ssize_t at = my.v0 * 4 * q.L, n = min(my.v1 * 4, q.U) * q.L - at
    r, r1 = max(r0, my.b0), min(r1, my.b1)
    while r < r1:
        run = r
        while run < r1 and not was_reset(job, t_from, run):
            run += 1
        if run > r:
            job.simd.step_backward[is_f64](q, t_from, t, r, run, my.v0, my.v1)
        r = run
        if r < r1:
            forget_gradient(tag, job, r, at, n)
            if t >= 0:
                swap_kept(tag, job, slot, t_from, r, at, n, False)
                job.simd.step_backward[is_f64](q, -1, t, r, r + 1, my.v0, my.v1)
                swap_kept(tag, job, slot, t_from, r, at, n, True)
            r += 1


cdef inline void blas_step_backward(
    const real *tag, Job *job, Py_ssize_t t_from, Py_ssize_t t, Py_ssize_t both
) noexcept nogil:
    """The step backward for all rows; the first `both` of them have a step t_from too."""
    cdef fl_lstm *q = job.q
    cdef Py_ssize_t r, slot = t + 1 - q.reverse
    for r in range(both if job.resets != NULL else 0):
        if was_reset(job, t_from, r):
            swap_kept(tag, job, slot, t_from, r, 0, q.H, False)
    step_backward(tag, q, &job.variant, t, <real *>job.scratch)
    for r in range(both if job.resets != NULL else 0):
        if was_reset(job, t_from, r):
            swap_kept(tag, job, slot, t_from, r, 0, q.H, True)
    for r in range(q.active[t] if job.resets != NULL else 0):
        if was_reset(job, t, r):
            forget_gradient(tag, job, r, 0, q.H)


cdef inline bint was_reset(const Job *job, Py_ssize_t t, Py_ssize_t r) noexcept nogil:
    """Whether the state of row r was set to zeros before step t."""
    return job.resets != NULL and t >= 0 and job.resets[t * job.q.B + r] >= 0


cdef inline void kept_peephole_gradient(
    const real *tag, const Job *job, Py_ssize_t u0, Py_ssize_t u1
) noexcept nogil:
    """dp_o += da_o c for the steps before a reset, whose cells are not in their slots."""
    cdef const fl_lstm *q = job.q
    cdef Py_ssize_t t, r, j, k, before, U4L = q.U * 4 * q.L
    cdef const real *da
    cdef real *dp = <real *>q.dw_peephole + 2 * q.H
    for t in range(q.T):
        before = t + 1 if q.reverse else t - 1
        if before < 0 or before >= q.T:
            continue
        for r in range(min(q.active[t], q.active[before])):
            k = job.resets[t * q.B + r]
            if k < 0:
                continue
            da = <const real *>q.gates + (before * q.B + r) * U4L
            for j in range(u0 * q.L, min(u1 * q.L, q.H)):
                dp[j] += (da[(j // q.L * 4 + 3) * q.L + j % q.L]
                          * (<const real *>job.c_kept)[k * q.U * q.L + j])


cdef inline void forward_work(void *job, int thread, int n) noexcept nogil:
    if (<Job *>job).is_f64:
        forward_loop(<double *>NULL, <Job *>job, thread, n)
    else:
        forward_loop(<float *>NULL, <Job *>job, thread, n)


cdef inline void backward_work(void *job, int thread, int n) noexcept nogil:
    if (<Job *>job).is_f64:
        backward_loop(<double *>NULL, <Job *>job, thread, n)
    else:
        backward_loop(<float *>NULL, <Job *>job, thread, n)
