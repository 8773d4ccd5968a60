# SPDX-License-Identifier: MIT
"""What one call tells the loops over time, and who makes it up."""

from ._csrc cimport fl_kernels, fl_lstm
from ._packed cimport Weights
from ._variants cimport Variant


cdef struct Job:  # one call, shared by the team
    fl_lstm *q
    const fl_kernels *simd  # NULL: the BLAS step, by one thread
    Variant variant         # what the BLAS step alone looks at
    bint is_f64
    bint by_units           # threads share the units, and wait for each other after each step
    bint fused              # SIMD: x is multiplied inside the step (`is_fused`)
    Py_ssize_t chunk        # steps whose projection is formed at once
    const Py_ssize_t *resets  # (T,B) which row of c_kept, or -1: the state is not reset before
    void *c_kept            # (., U*L) cells before a reset, which backward needs; resets NULL: none
    char *scratch
    Py_ssize_t scratch_size  # bytes a thread
    unsigned long long denormals  # the caller's mode
    unsigned long caller    # the thread that made the call: it alone can see a signal
    long long looked        # when it last looked for one (`fl_now_ns`)
    Py_ssize_t stop_after   # by_units: Ctrl-C: the last step
    Py_ssize_t alone_after  # by_units: processors are wanting; after this step the first goes alone
    int interrupted         # a flag of pool.h: all stop, at once or after stop_after


cdef int describe(
    Job *job, fl_lstm *q, Weights weights, Py_ssize_t T, Py_ssize_t B
) except -1
cdef int cut_time(Job *job, bint save) except -1


cdef inline Py_ssize_t groups_of_panels(const fl_lstm *q) noexcept nogil:
    """Groups of four panels, whose step backward is one tile."""
    return (q.U + 3) // 4


cdef inline double flop_of_step(const fl_lstm *q) noexcept nogil:
    return 8.0 * q.B * q.H * (q.I + q.P)


cdef inline Py_ssize_t weight_bytes(const fl_lstm *q, bint is_f64) noexcept nogil:
    return 4 * q.H * (q.I + q.P) * (8 if is_f64 else 4)


cdef bint repays_a_team(const fl_lstm *q) noexcept nogil
cdef int units_team_size(const fl_lstm *q) noexcept nogil
cdef long long step_ns(const Job *job, int n) noexcept nogil
cdef int team_size(Job *job) noexcept
cdef int interrupted(const Job *job) except -1
cdef void *blas_gemm(bint is_f64) except NULL
