# SPDX-License-Identifier: MIT
"""A call as the loops over time read it: sizes, weights, which step, how many threads."""

from libc.math cimport sqrt
from libc.stdint cimport uintptr_t
from libc.string cimport memset

from ._csrc cimport fl_flush_denormals, fl_now_ns, fl_restore_denormals
from ._kernels cimport threads
from ._loops cimport PyThread_get_thread_ident
from ._team cimport team_worth

# Gates in one chunk of the projection: the BLAS step wants few large products, 1 MiB of float32;
# the SIMD step wants its chunk to stay in L2 beside the weights.
cdef Py_ssize_t BLAS_CHUNK = 1 << 18, SIMD_CHUNK = 1 << 16
# Where the projection costs more traffic than it saves, x is multiplied in the step: up to so many
# inputs; and where a thread has the rows to repay reading the weights each step, with panels that
# stay in L1 (40,32,45,45: 281 us by chunks, 275 so), and with weights so large that they leave no
# room in L2 for the chunk (50,64,256,256: 17.4 and 16.7 ms; few rows, 50,8,512,512: 11.6 and 13.9).
cdef Py_ssize_t FUSED_INPUTS = 8, FUSED_PANEL_BYTES = 1 << 15, FUSED_BYTES = 1 << 20
# FLOP of a call below which the team costs more than it brings: where it shares rows, and where it
# shares units for each lane of a vector; and the rows a thread wants, lest its tiles be small.
cdef double ROWS_FLOP = 4e5, UNITS_FLOP = 2e4
cdef Py_ssize_t ROWS_A_THREAD = 4
# The same of a step that n threads share by units, for each lane and n * n: their barrier takes as
# long as there are threads. With two, T = 100, B = 1, of the time of one thread: I,H = 16,64 0.73,
# 8,56 0.79, 8,48 0.84, 8,40 1.1; in float64 16,64 0.63, 8,40 0.72, 8,32 0.79, 8,20 1.0 (AVX2 on a
# Zen 3, 2026-11).
cdef double STEP_FLOP = 875
# Bytes from which weights are read by one thread each, which share the units, rather than by all,
# which share the rows; and the rows a thread wants, else, to repay reading all of them. Forward
# with two threads 30,32,1024,1024 takes 0.85 of the time, 30,16,512,512 0.95, 30,64,768,768 0.98,
# 20,128,1024,1024 1.01 (Zen 3, 2026-11).
cdef Py_ssize_t LARGE_BYTES = 1 << 22, ROWS_FOR_LARGE = 32
# FLOP of a thread in a nanosecond, a quarter of what an AVX2 core can do in float32
cdef double SLOW_FLOP = 25
cdef Py_ssize_t NEVER = (<size_t>-1) >> 1


_gemm_addresses = None


cdef void *blas_gemm(bint is_f64) except NULL:
    """The matrix product of `_blas`, which imports SciPy's BLAS: only when it is needed."""
    global _gemm_addresses
    if _gemm_addresses is None:
        from . import _blas
        _gemm_addresses = _blas.addresses()
    return <void *><uintptr_t>_gemm_addresses[is_f64]


cdef int describe(
    Job *job, fl_lstm *q, Weights weights, Py_ssize_t T, Py_ssize_t B
) except -1:
    """The sizes, the weights, and which step does the work; the rest 0."""
    q[0] = weights.q
    q.T, q.B = T, B
    memset(job, 0, sizeof(Job))
    job.q, job.simd, job.is_f64, job.variant = q, weights.simd, weights.is_f64, weights.variant
    if job.simd == NULL:
        q.gemm = blas_gemm(job.is_f64)
    job.caller, job.looked = PyThread_get_thread_ident(), fl_now_ns()
    job.denormals = fl_flush_denormals()
    fl_restore_denormals(job.denormals)
    job.stop_after = job.alone_after = NEVER
    return 0


cdef int cut_time(Job *job, bint save) except -1:
    """How many steps are projected at once, if x is not fused, and how many slots there are."""
    cdef fl_lstm *q = job.q
    q.save = save
    job.fused = job.simd != NULL and is_fused(q, job.simd.tile_rows, 8 if job.is_f64 else 4)
    job.chunk = (BLAS_CHUNK if job.simd == NULL else SIMD_CHUNK) // (4 * q.H * q.B + 1)
    job.chunk = max(1, min(q.T, job.chunk))
    q.state_slots = q.T + 1 if save else 2
    q.gate_slots = max(1, q.T) if save else job.chunk
    q.m_slots = max(1, q.T) if save else 1
    return 0


cdef inline bint is_fused(const fl_lstm *q, Py_ssize_t tile_rows, Py_ssize_t item):
    """Whether the steps multiply x too, instead of finding its projection in the gates."""
    if q.T == 1 or q.I <= FUSED_INPUTS:
        return True
    cdef Py_ssize_t row = 4 * (q.I + q.P) * item  # of one unit's four gates
    return q.B >= 2 * tile_rows * threads and (
        q.L * row <= FUSED_PANEL_BYTES or q.H * row >= FUSED_BYTES)


cdef bint repays_a_team(const fl_lstm *q) noexcept nogil:
    """Whether a call that does not share its rows is long enough for more than one thread."""
    return flop_of_step(q) * q.T >= UNITS_FLOP * q.L


cdef int units_team_size(const fl_lstm *q) noexcept nogil:
    """How many threads share the units of a step: one, where a projection needs all of them."""
    cdef double most
    if q.w_proj != NULL:
        return 1
    most = sqrt(flop_of_step(q) / (q.L * STEP_FLOP))
    return max(1, min(threads, groups_of_panels(q), <Py_ssize_t>most))


cdef long long step_ns(const Job *job, int n) noexcept nogil:
    """How long a step of n threads takes at most, and so how much later one of them may be."""
    return <long long>(flop_of_step(job.q) * (2 if job.is_f64 else 1) / (n * SLOW_FLOP))


cdef inline bint shares_rows(const fl_lstm *q, bint is_f64) noexcept nogil:
    """Whether threads share the rows of a call, and not the units."""
    if q.B < ROWS_A_THREAD * threads:
        return False
    if q.B >= ROWS_FOR_LARGE * threads or q.w_proj != NULL:
        return True
    return weight_bytes(q, is_f64) < LARGE_BYTES or groups_of_panels(q) < threads


cdef int team_size(Job *job) noexcept:
    """How many threads a call gets, and what they share: rows, or for few rows the units."""
    cdef fl_lstm *q = job.q
    cdef int n = threads
    if job.simd == NULL or threads == 1:
        return 1
    if not shares_rows(q, job.is_f64):
        job.by_units = True
        n = units_team_size(q) if repays_a_team(q) else 1
    elif flop_of_step(q) * q.T < ROWS_FLOP:
        n = 1
    return team_worth(n, q.T * step_ns(job, 1))


cdef int interrupted(const Job *job) except -1:
    """Raise what a signal handler raised during the job: KeyboardInterrupt."""
    return -1 if job.interrupted else 0
