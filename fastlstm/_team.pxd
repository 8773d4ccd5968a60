# SPDX-License-Identifier: MIT
"""What the modules that share work use of `_team`."""

from ._csrc cimport fl_work

cdef void team_share(int n, fl_work work, void *arg) noexcept nogil
cdef void team_together(int n, fl_work work, void *arg) noexcept nogil
cdef int team_worth(int n, long long alone_ns) noexcept nogil
cdef int team_barrier(int n, long long slack_ns) noexcept nogil
