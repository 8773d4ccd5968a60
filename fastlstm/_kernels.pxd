# SPDX-License-Identifier: MIT
"""The kernels in use, for the modules that call them."""

from ._csrc cimport fl_kernels
from ._gates cimport fl_squash

cdef const fl_kernels *kernels  # NULL: none
cdef int threads

cdef fl_squash squash(bint is_f64, bint is_tanh) noexcept nogil
