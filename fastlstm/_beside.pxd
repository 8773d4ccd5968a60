# SPDX-License-Identifier: MIT
"""What `_engine` and `_stack` use of `_beside`."""

from ._csrc cimport fl_work
from ._job cimport Job


cdef class Beside:
    cdef object run       # of the second direction: `forward` or `backward`
    cdef tuple arguments  # its, by position
    cdef dict named
    cdef Job *first       # not NULL: the first direction's, which waits
    cdef readonly bint done  # it ran beside the first
    cdef object result

    cdef bint repays(self, const Job *job) noexcept
    cdef int begin(self, Job *first) except -1
    cdef void both(self, Job *second, fl_work loop, fl_work then) noexcept nogil
