# SPDX-License-Identifier: MIT
"""The two directions of a layer side by side, a thread each."""

from ._csrc cimport fl_flag_is_up, fl_lstm, fl_raise_flag, fl_work
from ._job cimport Job, repays_a_team, step_ns, units_team_size, weight_bytes
from ._kernels cimport threads
from ._team cimport team_share, team_worth

# Bytes of a direction's weights up to which its thread finds them in L2. With two threads, T = 100,
# B = 1, of the time of sharing the units of one direction after the other: I,H = 8,32 0.61,
# 16,64 0.76, 64,128 0.92, in training 0.63, 0.78, 0.91; in float64 16,64 0.83, 64,96 0.95. Larger
# ones share the units twice as fast as one thread is, for two L2 hold more than one (Zen 3,
# 2026-11).
cdef Py_ssize_t BESIDE_BYTES = 1 << 19


cdef struct Both:
    Job *jobs[2]
    fl_work loop
    fl_work then  # after the loop, or NULL


cdef void run_both(void *arg, int thread, int n) noexcept nogil:
    """One thread's of the two directions; where no other came, one after the other."""
    cdef const Both *both = <const Both *>arg
    cdef Job *job
    cdef int k = thread
    while k < 2:
        job = both.jobs[k]
        both.loop(job, 0, 1)
        if both.then != NULL and not fl_flag_is_up(&job.interrupted):
            both.then(job, 0, 1)
        if fl_flag_is_up(&job.interrupted):  # Ctrl-C is seen by one of them
            fl_raise_flag(&both.jobs[1 - k].interrupted)
        k += n


cdef class Beside:
    """The second direction of a layer, as the first one finds it when it is ready to run.

    The first either begins the second, which then runs both; or it runs alone, and the second after
    it. Either way `get` has the second's result.

    Parameters
    ----------
    run : callable
        `forward` or `backward` of the second direction.
    arguments : tuple
    named : dict
    """

    def __init__(self, run, tuple arguments, dict named):
        self.run, self.arguments, self.named = run, arguments, named

    cdef bint repays(self, const Job *job) noexcept:
        """Whether the first direction, of this job, is to begin the second."""
        cdef const fl_lstm *q = job.q
        if self.first != NULL or job.simd == NULL or not job.by_units or threads < 2:
            return False
        if weight_bytes(q, job.is_f64) > BESIDE_BYTES or units_team_size(q) > 2:
            return False
        return repays_a_team(q) and team_worth(2, q.T * step_ns(job, 1)) == 2

    cdef int begin(self, Job *first) except -1:
        """Let the second direction run, and with it the first."""
        first.by_units = False  # neither waits for the other
        self.first = first
        self.result = self.run(*self.arguments, **self.named, beside=self)
        self.done = True
        return 0

    cdef void both(self, Job *second, fl_work loop, fl_work then) noexcept nogil:
        """The loops of both."""
        cdef Both both = Both([self.first, second], loop, then)
        second.by_units = False
        team_share(2, run_both, &both)

    def get(self):
        """The second's result; it runs now, unless it ran beside the first."""
        if not self.done:
            self.result = self.run(*self.arguments, **self.named)
        return self.result
