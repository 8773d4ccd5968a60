# SPDX-License-Identifier: MIT
"""What `_stream` uses of the engine."""

from ._csrc cimport fl_work

cdef void run_together(int n, fl_work work, void *arg) noexcept nogil
