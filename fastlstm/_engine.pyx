# SPDX-License-Identifier: MIT
"""The loops over time, forward and backward, of one LSTM layer in one direction.

`lstm_forward` and `lstm_backward` have the arguments and results of `fastlstm.reference`, which
says what they compute. Here is how:

* The arguments are checked (`checks`), then everything runs on pointers without the GIL.
* Rows of different length are put in order, longest first, and rows without a step are left out.
  So the rows that have a step t are the first ``active[t]``, and nothing is computed in vain.
* W_ih x[t] is formed for a chunk of time at once, straight into the buffer of the gates; a step
  adds W_hh h[t-1] there and activates the gates in place.
* The backward loop replaces the gates by their gradients in place. After it one product each
  gives dw_hh, dw_ih and dx: their sums run over all steps and rows.
* A step is one of csrc/step.inc.h where this processor has one (SIMD, packed weights), else one of
  `_blas_step`. A team of threads shares the SIMD steps by rows or by units; bits do not depend on
  it.
"""

from cpython.buffer cimport PyBUF_STRIDES, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uintptr_t
from libc.string cimport memcmp, memcpy, memset

import numpy as np

from . import checks, reference
from .spec import Spec
from .tape import Tape

from ._blas_step cimport c_slot, h_slot, project, step_backward, step_forward, sum_gradients
from ._csrc cimport (
    fl_best_isa, fl_isas, fl_kernels, fl_kernels_for, fl_lstm, fl_team_barrier, fl_team_run,
)
from ._gates cimport (
    fl_squash, libm_sigmoid_f32, libm_sigmoid_f64, libm_tanh_f32, libm_tanh_f64,
)

cdef extern from "Python.h":
    int PyErr_CheckSignals()  # without Cython's check: Job.interrupted keeps the answer

__all__ = [
    "LSTMForward", "elementwise", "get_isa", "get_threads", "isas", "lstm_backward", "lstm_forward", "set_isa",
    "set_threads",
]

ctypedef fused real:
    float
    double


# -- which kernels, how many threads ---------------------------------------------------------

cdef const fl_kernels *kernels = fl_kernels_for(fl_best_isa())  # NULL: none
cdef int threads = 1


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


def set_threads(int n):
    """Let the team have at most n threads."""
    global threads
    threads = n


def get_threads():
    """How many threads the team may have."""
    return threads


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


# -- the loops over time ---------------------------------------------------------------------

cdef Py_ssize_t NEVER = (<size_t>-1) >> 1


cdef struct Job:  # one call, shared by the team
    fl_lstm *q
    const fl_kernels *simd  # NULL: the BLAS step, by one thread
    bint is_f64
    bint by_units           # threads share the units, and wait for each other after each step
    bint fused              # SIMD: x is multiplied inside the step
    Py_ssize_t chunk        # steps whose projection is formed at once
    char *scratch
    Py_ssize_t scratch_size  # bytes a thread
    Py_ssize_t stop_after   # Ctrl-C: the last step
    Py_ssize_t alone_after  # by_units: processors are wanting; after this step the first goes alone
    bint interrupted


cdef struct Share:  # what one thread does of a step
    Py_ssize_t b0, b1, u0, u1, v0, v1


cdef inline Share share_of(const Job *job, int thread, int n) noexcept nogil:
    cdef const fl_lstm *q = job.q
    cdef Py_ssize_t V = (q.U + 3) // 4  # groups of four panels
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
    for r in range(max(r0, my.b0), min(r1, my.b1)):
        place(h_slot(tag, q, slot) + r * q.h_row, q.h_row, <const real *>q.h0 + r * q.P, q.P,
              my, q)
        place(c_slot(tag, q, slot) + r * c_row, c_row, <const real *>q.c0 + r * q.H, q.H, my, q)


cdef inline void leave(
    const real *tag, const fl_lstm *q, const Share *my, Py_ssize_t slot, Py_ssize_t r0,
    Py_ssize_t r1,
) noexcept nogil:
    """Rows r0 <= r < r1 end: h_n, c_n come from this slot."""
    cdef Py_ssize_t r
    for r in range(max(r0, my.b0), min(r1, my.b1)):
        place(<real *>q.h_n + r * q.P, q.P, h_slot(tag, q, slot) + r * q.h_row, q.P, my, q)
        place(<real *>q.c_n + r * q.H, q.H, c_slot(tag, q, slot) + r * q.U * q.L, q.H, my, q)


cdef inline void place(
    real *to, Py_ssize_t size, const real *src, Py_ssize_t n, const Share *my, const fl_lstm *q
) noexcept nogil:
    """to[:n] := src[:n], to[n:size] := 0, within the columns of these units."""
    cdef Py_ssize_t start = my.u0 * q.L, stop = size if my.u1 == q.U else my.u1 * q.L
    cdef Py_ssize_t filled = min(max(n, start), stop)
    memcpy(to + start, src + start, (filled - start) * sizeof(real))
    memset(to + filled, 0, (stop - filled) * sizeof(real))


cdef inline Py_ssize_t steps_between_signals(const fl_lstm *q) noexcept nogil:
    """About 50 ms of work at 10 GFLOP/s: how often Ctrl-C is looked for."""
    return 1 + 500000000 // (8 * q.B * q.H * (q.P + q.I) + 1)


cdef inline void look_for_ctrl_c(Job *job, Py_ssize_t s) noexcept nogil:
    with gil:
        if PyErr_CheckSignals():
            job.interrupted = True
            job.stop_after = s


cdef inline void meet(Job *job, Py_ssize_t s, int *n) noexcept nogil:
    """Wait for the others after step s. What a thread decides then, all act on one step later."""
    if n[0] > 1 and job.by_units:
        if fl_team_barrier(n[0]) and s + 1 < job.alone_after:
            job.alone_after = s + 1
        if s >= job.alone_after:
            n[0] = 1


cdef void forward_loop(const real *tag, Job *job, int thread, int n) noexcept nogil:
    """One thread's share of the forward pass."""
    cdef fl_lstm *q = job.q
    cdef bint is_f64 = sizeof(real) == 8
    cdef fl_squash sigmoid_ = squash(is_f64, False), tanh_ = squash(is_f64, True)
    cdef Share my = share_of(job, thread, n)
    cdef Py_ssize_t s, t, t1, rows, rows_next, chunk = -1
    cdef Py_ssize_t patience = steps_between_signals(q)
    if q.T == 0:
        return
    t = q.T - 1 if q.reverse else 0
    rows = q.active[t]
    enter(tag, q, &my, t + q.reverse, 0, rows)
    if n > 1 and job.by_units:
        fl_team_barrier(n)
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
            step_forward(tag, q, t, sigmoid_, tanh_)
        elif my.b0 < rows:
            job.simd.step_forward[is_f64](q, t, job.fused, my.b0, min(my.b1, rows), my.u0, my.u1)
        rows_next = 0 if s + 1 == q.T else q.active[t - 1 if q.reverse else t + 1]
        leave(tag, q, &my, t + 1 - q.reverse, rows_next, rows)
        enter(tag, q, &my, t + 1 - q.reverse, rows, rows_next)
        rows = rows_next
        if thread == 0 and (s + 1) % patience == 0:
            look_for_ctrl_c(job, s)
        meet(job, s, &n)
        if s >= job.stop_after or n <= thread:
            return
        my = share_of(job, thread, n)


cdef void backward_loop(const real *tag, Job *job, int thread, int n) noexcept nogil:
    """One thread's share of the backward pass."""
    cdef fl_lstm *q = job.q
    cdef bint is_f64 = sizeof(real) == 8
    cdef Share my = share_of(job, thread, n)
    cdef Py_ssize_t s, t, t_from = -1, rows, rows_from = 0, both, N = q.T * q.B
    cdef Py_ssize_t patience = steps_between_signals(q)
    for s in range(q.T + 1):
        t = -1 if s == q.T else s if q.reverse else q.T - 1 - s
        rows = 0 if t < 0 else q.active[t]
        both = min(rows, rows_from)
        if job.simd == NULL:
            if t >= 0:
                step_backward(tag, q, t, <real *>job.scratch, squash(is_f64, True))
        else:
            backward_rows(job, is_f64, t_from, t, 0, both, &my)
            backward_rows(job, is_f64, t_from, -1, both, rows_from, &my)
            backward_rows(job, is_f64, -1, t, both, rows, &my)
        t_from, rows_from = t, rows
        if thread == 0 and (s + 1) % patience == 0:
            look_for_ctrl_c(job, s)
        meet(job, s, &n)
        if n <= thread:
            return
        if s >= job.stop_after:
            break
        my = share_of(job, thread, n)
    if n > 1:  # weights' gradients need the rows of all threads
        fl_team_barrier(n)
    if job.interrupted:
        return
    if job.simd == NULL:
        sum_gradients(tag, q)
        return
    job.simd.input_gradient[is_f64](q, N * thread // n, N * (thread + 1) // n)
    job.simd.weight_gradient[is_f64](q, q.U * thread // n, q.U * (thread + 1) // n,
                                     job.scratch + thread * job.scratch_size)


cdef inline void backward_rows(
    Job *job, bint is_f64, Py_ssize_t t_from, Py_ssize_t t, Py_ssize_t r0, Py_ssize_t r1,
    const Share *my,
) noexcept nogil:
    """The step backward for the rows r0 <= r < r1 that are this thread's."""
    r0, r1 = max(r0, my.b0), min(r1, my.b1)
    if r0 < r1:
        job.simd.step_backward[is_f64](job.q, t_from, t, r0, r1, my.v0, my.v1)


cdef void forward_work(void *job, int thread, int n) noexcept nogil:
    if (<Job *>job).is_f64:
        forward_loop(<double *>NULL, <Job *>job, thread, n)
    else:
        forward_loop(<float *>NULL, <Job *>job, thread, n)


cdef void backward_work(void *job, int thread, int n) noexcept nogil:
    if (<Job *>job).is_f64:
        backward_loop(<double *>NULL, <Job *>job, thread, n)
    else:
        backward_loop(<float *>NULL, <Job *>job, thread, n)


cdef int interrupted(const Job *job) except -1:
    """Raise what a signal handler raised during the job: KeyboardInterrupt."""
    return -1 if job.interrupted else 0


# -- arrays and pointers ---------------------------------------------------------------------

cdef void *address(a) except? NULL:
    """Where the array's numbers are; NULL for None."""
    cdef Py_buffer view
    if a is None:
        return NULL
    PyObject_GetBuffer(a, &view, PyBUF_STRIDES)
    PyBuffer_Release(&view)  # the array stays alive in the caller's hands
    return view.buf


def aligned(shape, dtype, bint zeros=False):
    """A new array that starts on a cache line."""
    cdef Py_ssize_t count = 1, skip
    for size in shape:
        count *= size
    itemsize = dtype.itemsize
    raw = (np.zeros if zeros else np.empty)(count * itemsize + 64, np.uint8)
    skip = -<Py_ssize_t>address(raw) & 63
    return raw[skip:skip + count * itemsize].view(dtype).reshape(shape)


cdef bint same_bytes(a, b) except -1:
    """Whether two contiguous arrays of one dtype, or None, hold the same."""
    if a is None or b is None or a.shape != b.shape:
        return a is b
    return memcmp(address(a), address(b), a.nbytes) == 0


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


def sequence_input(inputs, order):
    """x (T, B', I) in the engine's rows, zeros beyond a row's length."""
    if order is None:
        return np.ascontiguousarray(inputs.x)
    x = inputs.x.take(order, axis=1)
    x[np.arange(inputs.T)[:, None] >= inputs.lengths[order]] = 0
    return x


def scatter_rows(others, rows, order):
    """The engine's ``rows`` in the caller's order; rows that it left out come from ``others``."""
    full = np.array(others, order="C")
    full[order] = rows
    return full


cdef class Weights:
    """The weights of one call as the steps read them.

    Packed once and kept as long as the caller's weights hold the same numbers: `matches` compares
    them with a copy, which costs 1/T of the product with them.
    """

    cdef readonly object w_ih, w_hh, b, w_proj      # contiguous; copies where packed
    cdef object x_panels, h_panels, b_panel, x_columns, h_columns
    cdef const fl_kernels *simd  # NULL: the BLAS step, nothing is packed
    cdef Py_ssize_t L

    def __cinit__(self, inputs, bint copy):
        w_ih, w_hh, b, w_proj = inputs.w_ih, inputs.w_hh, inputs.b, inputs.w_proj
        self.simd = kernels if w_proj is None else NULL
        if copy and self.simd != NULL:
            self.w_ih, self.w_hh, self.b = (
                None if w is None else np.array(w, order="C") for w in (w_ih, w_hh, b))
        else:
            self.w_ih, self.w_hh, self.b, self.w_proj = (
                None if w is None else np.ascontiguousarray(w) for w in (w_ih, w_hh, b, w_proj))
        if self.simd != NULL:
            self.pack()

    cdef int pack(self) except -1:
        """The panels of the forward steps."""
        cdef Py_ssize_t H = self.w_hh.shape[0] // 4, I = self.w_ih.shape[1]
        cdef bint is_f64 = self.w_ih.dtype == np.float64
        self.L = self.simd.lanes[is_f64]
        U, dtype = (H + self.L - 1) // self.L, self.w_ih.dtype
        self.x_panels = aligned((U, I, 4, self.L), dtype)
        self.h_panels = aligned((U, H, 4, self.L), dtype)
        self.b_panel = aligned((U, 4, self.L), dtype)
        self.simd.pack_panels[is_f64](H, I, address(self.w_ih), address(self.x_panels))
        self.simd.pack_panels[is_f64](H, H, address(self.w_hh), address(self.h_panels))
        self.simd.pack_bias[is_f64](H, address(self.b), address(self.b_panel))
        return 0

    cdef int pack_transposed(self) except -1:
        """The columns of the backward steps, when they are first needed."""
        cdef Py_ssize_t H = self.w_hh.shape[0] // 4, I = self.w_ih.shape[1], L = self.L
        cdef bint is_f64 = self.w_ih.dtype == np.float64
        if self.simd == NULL or self.h_columns is not None:
            return 0
        U, dtype = (H + L - 1) // L, self.w_ih.dtype
        x_columns = aligned((U, 4, L, (I + L - 1) // L * L), dtype)
        h_columns = aligned((U, 4, L, U * L), dtype)
        self.simd.pack_columns[is_f64](H, I, address(self.w_ih), address(x_columns))
        self.simd.pack_columns[is_f64](H, H, address(self.w_hh), address(h_columns))
        self.x_columns, self.h_columns = x_columns, h_columns
        return 0

    cdef bint matches(self, inputs) except -1:
        """Whether they were made from these weights, for these kernels."""
        if self.simd != (kernels if inputs.w_proj is None else NULL) or self.simd == NULL:
            return False
        for w in (inputs.w_ih, inputs.w_hh, inputs.b):
            if w is not None and not w.flags.c_contiguous:
                return False
        return (self.w_ih.dtype == inputs.w_ih.dtype and same_bytes(self.w_ih, inputs.w_ih)
                and same_bytes(self.w_hh, inputs.w_hh) and same_bytes(self.b, inputs.b))


cdef int describe(Job *job, fl_lstm *q, inputs, Py_ssize_t B, active, Weights weights) except -1:
    """The sizes, the rows, the weights and who does what; the rest 0."""
    memset(q, 0, sizeof(fl_lstm))
    memset(job, 0, sizeof(Job))
    q.T, q.B, q.I, q.H, q.P = inputs.T, B, inputs.I, inputs.H, inputs.P
    q.reverse = inputs.reverse
    q.active = <const Py_ssize_t *>address(active)
    q.w_ih, q.w_hh = address(weights.w_ih), address(weights.w_hh)
    q.b, q.w_proj = address(weights.b), address(weights.w_proj)
    job.q, job.simd, job.is_f64 = q, weights.simd, inputs.x.dtype == np.float64
    job.stop_after = job.alone_after = NEVER
    if job.simd == NULL:
        q.U, q.L, q.h_row = 1, q.H, q.P
        q.gemm = blas_gemm(job.is_f64)
    else:
        q.L = weights.L
        q.U = (q.H + q.L - 1) // q.L
        q.h_row = q.U * q.L
        q.x_panels, q.h_panels = address(weights.x_panels), address(weights.h_panels)
        q.b_panel = address(weights.b_panel)
        q.x_columns, q.h_columns = address(weights.x_columns), address(weights.h_columns)
    return 0


_gemm_addresses = None


cdef void *blas_gemm(bint is_f64) except NULL:
    """The matrix product of `_blas`, which imports SciPy's BLAS: only when it is needed."""
    global _gemm_addresses
    if _gemm_addresses is None:
        from . import _blas
        _gemm_addresses = _blas.addresses()
    return <void *><uintptr_t>_gemm_addresses[is_f64]


# -- forward and backward --------------------------------------------------------------------

# Gates in one chunk of the projection: the BLAS step wants few large products, 1 MiB of float32;
# the SIMD step wants its chunk to stay in L2 beside the weights.
cdef Py_ssize_t BLAS_CHUNK = 1 << 18, SIMD_CHUNK = 1 << 16
# Inputs below which the projection costs more traffic than it saves: x is multiplied in the step.
cdef Py_ssize_t FUSED_INPUTS = 8


# FLOP of a step below which the team costs more than it brings, by what it shares; and the rows
# a thread wants at least, lest its tiles be small (measured: csrc/README.md, threads).
cdef double ROWS_FLOP = 4e5, UNITS_FLOP = 4e5
cdef Py_ssize_t ROWS_A_THREAD = 6


cdef int team_size(Job *job) except -1:
    """How many threads a call gets, and what they share: rows, or for few rows the units."""
    cdef fl_lstm *q = job.q
    cdef double flop = 8.0 * q.B * q.H * (q.I + q.P)
    if job.simd == NULL or threads == 1:
        return 1
    if q.B >= ROWS_A_THREAD * threads:
        return threads if flop * q.T >= ROWS_FLOP else 1
    job.by_units = True
    return threads if flop >= UNITS_FLOP and (q.U + 3) // 4 >= threads else 1


def lstm_forward(
    x, w_ih, w_hh, b=None, state=None, *, w_peephole=None, w_proj=None, w_fgr=None, ln_x=None,
    ln_h=None, ln_c=None, lengths=None, reverse=False, spec=Spec(), save=True, out=None,
):
    variants = dict(w_peephole=w_peephole, w_fgr=w_fgr, ln_x=ln_x, ln_h=ln_h, ln_c=ln_c)
    inputs = checks.forward_inputs(
        x, w_ih, w_hh, b, state, variants, w_proj, lengths, reverse, spec, out
    )
    return run_forward(inputs, Weights(inputs, False), save)


class LSTMForward:
    """`lstm_forward` for one who calls it again with the same weights: keeps them packed."""

    def __init__(self):
        self.weights = None

    def __call__(
        self, x, w_ih, w_hh, b=None, state=None, *, w_proj=None, lengths=None, reverse=False,
        spec=Spec(), save=True, out=None,
    ):
        inputs = checks.forward_inputs(
            x, w_ih, w_hh, b, state, {}, w_proj, lengths, reverse, spec, out
        )
        cdef Weights weights = self.weights  # a local: other threads may replace it
        if weights is None or not weights.matches(inputs):
            self.weights = weights = Weights(inputs, True)
        return run_forward(inputs, weights, save)


cdef run_forward(inputs, Weights weights, bint save):
    """y, (h_n, c_n), tape or None."""
    cdef Py_ssize_t T = inputs.T, H = inputs.H, P = inputs.P
    cdef fl_lstm q
    cdef Job job
    order, active = by_length(inputs.lengths, T, inputs.B)
    B, dtype = inputs.B if order is None else len(order), inputs.x.dtype
    x = sequence_input(inputs, order)
    h0, c0 = (np.ascontiguousarray(s if order is None else s[order])
              for s in (inputs.h0, inputs.c0))
    describe(&job, &q, inputs, B, active, weights)
    ragged = order is not None
    direct = not ragged and inputs.y.strides[2] == inputs.y.itemsize
    y = inputs.y if direct else (np.zeros if ragged else np.empty)((T, B, P), dtype)
    job.fused = job.simd != NULL and (T == 1 or q.I <= FUSED_INPUTS)
    job.chunk = (BLAS_CHUNK if job.simd == NULL else SIMD_CHUNK) // (4 * H * B + 1)
    job.chunk = max(1, min(T, job.chunk))
    q.save = save
    q.state_slots = T + 1 if save or T == 0 else 2
    q.gate_slots = max(1, T) if save else job.chunk
    q.m_slots = max(1, T) if save else 1
    h = aligned((q.state_slots, B, q.h_row), dtype, ragged)
    c = aligned((q.state_slots, B, q.U * q.L), dtype, ragged)
    gates = aligned((q.gate_slots, B, q.U, 4, q.L), dtype, ragged)
    m = None if inputs.w_proj is None else np.zeros((q.m_slots, B, H), dtype)
    h_n, c_n = h0.copy(), c0.copy()
    if T == 0:  # else the first step of a row puts its initial state there
        h[0, :, :P], c[0, :, :H] = h0, c0

    q.x, q.h0, q.c0 = address(x), address(h0), address(c0)
    q.y, q.y_t, q.y_b = address(y), y.strides[0] // y.itemsize, y.strides[1] // y.itemsize
    q.h_n, q.c_n = address(h_n), address(c_n)
    q.h, q.c, q.gates, q.m = address(h), address(c), address(gates), address(m)
    cdef int n = team_size(&job)
    if B:
        with nogil:
            fl_team_run(n, forward_work, &job)
    interrupted(&job)

    if ragged:
        inputs.y[...] = 0
        inputs.y[:, order] = y
        h_n, c_n = scatter_rows(inputs.h0, h_n, order), scatter_rows(inputs.c0, c_n, order)
    elif not direct:
        inputs.y[...] = y
    tape = Tape(inputs, h, c, gates[:T], m, order, x, weights) if save else None
    return inputs.y, (h_n, c_n), tape


def lstm_backward(tape, dy=None, dstate=None, *, keep=False):
    inputs, dy, dh_n, dc_n = checks.backward_inputs(tape, dy, dstate)
    cdef Py_ssize_t T = inputs.T, I = inputs.I, H = inputs.H, P = inputs.P
    cdef Weights weights = tape.weights
    cdef fl_lstm q
    cdef Job job
    gates, order = tape.consume(keep), tape.order
    _, active = by_length(inputs.lengths, T, inputs.B)
    B, dtype, ragged = gates.shape[1], inputs.x.dtype, order is not None
    weights.pack_transposed()
    describe(&job, &q, inputs, B, active, weights)
    dh, dc = aligned((B, q.h_row), dtype, True), aligned((B, q.U * q.L), dtype, True)
    dh[:, :P], dc[:, :H] = (dh_n[order], dc_n[order]) if ragged else (dh_n, dc_n)
    if dy is not None:
        dy = dy.take(order, axis=1) if ragged else dy
        dy = dy if dy.strides[2] == dy.itemsize else np.ascontiguousarray(dy)
        q.dy, q.dy_t, q.dy_b = (address(dy), dy.strides[0] // dy.itemsize,
                                dy.strides[1] // dy.itemsize)
    dx = np.empty((T, B, I), dtype)
    dw_ih, dw_hh, db, dw_proj = (
        None if w is None else np.zeros_like(w)
        for w in (weights.w_ih, weights.w_hh, weights.b, weights.w_proj))
    dh_all = None if inputs.w_proj is None else np.zeros((T, B, P), dtype)

    q.x, q.h, q.c, q.gates = address(tape.x), address(tape._h), address(tape._c), address(gates)
    q.m = address(tape.h_raw)
    q.state_slots, q.gate_slots, q.m_slots = T + 1, max(1, T), max(1, T)
    q.dh, q.dc, q.dh_all, q.dx = address(dh), address(dc), address(dh_all), address(dx)
    q.dw_ih, q.dw_hh, q.db = address(dw_ih), address(dw_hh), address(db)
    q.dw_proj = address(dw_proj)
    cdef int n = team_size(&job)
    size = H + B * H if job.simd == NULL else job.simd.gradient_scratch[job.is_f64](
        &q, 0, (q.U + n - 1) // n)
    scratch = aligned((n, (size + 15) // 16 * 16), dtype)
    job.scratch, job.scratch_size = <char *>address(scratch), scratch.strides[0]
    if B and T:  # without a step all gradients of the weights stay 0
        with nogil:
            fl_team_run(n, backward_work, &job)
    interrupted(&job)

    dh, dc = np.ascontiguousarray(dh[:, :P]), np.ascontiguousarray(dc[:, :H])
    if ragged:
        dh, dc = scatter_rows(dh_n, dh, order), scatter_rows(dc_n, dc, order)
        dx = scatter_rows(np.zeros((inputs.B, T, I), dtype), dx.swapaxes(0, 1), order)
        dx = np.ascontiguousarray(dx.swapaxes(0, 1))
    grads = dict(w_ih=dw_ih, w_hh=dw_hh, b=db, w_proj=dw_proj)
    return dx, (dh, dc), {name: dw for name, dw in grads.items() if dw is not None}


lstm_forward.__doc__ = reference.lstm_forward.__doc__
lstm_backward.__doc__ = reference.lstm_backward.__doc__
