# SPDX-License-Identifier: MIT
"""The team of threads that this process has: csrc/pool.h says what each of these does.

Every extension links a copy of pool.c, and with it a team of its own: so all share work through
this one.
"""

from ._csrc cimport fl_team_barrier, fl_team_share, fl_team_together, fl_team_worth, fl_work


cdef void team_share(int n, fl_work work, void *arg) noexcept nogil:
    fl_team_share(n, work, arg)


cdef void team_together(int n, fl_work work, void *arg) noexcept nogil:
    fl_team_together(n, work, arg)


cdef int team_worth(int n, long long alone_ns) noexcept nogil:
    return fl_team_worth(n, alone_ns)


cdef int team_barrier(int n, long long slack_ns) noexcept nogil:
    return fl_team_barrier(n, slack_ns)
