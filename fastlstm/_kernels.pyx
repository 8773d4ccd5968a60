# SPDX-License-Identifier: MIT
"""Which kernels of csrc/ run, and in how many threads: settings of the whole process."""

import numpy as np

from ._arrays cimport address
from ._csrc cimport FL_MAX_THREADS, fl_best_isa, fl_isas, fl_kernels_for
from ._gates cimport libm_sigmoid_f32, libm_sigmoid_f64, libm_tanh_f32, libm_tanh_f64

__all__ = ["elementwise", "get_isa", "get_threads", "isas", "set_isa", "set_threads"]

kernels = fl_kernels_for(fl_best_isa())
threads = 1


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


def set_threads(n):
    """Let the team have at most n threads, or as many as it can have."""
    global threads
    threads = min(n, FL_MAX_THREADS)


def get_threads():
    """How many threads the team may have."""
    return threads


cdef fl_squash squash(bint is_f64, bint is_tanh) noexcept nogil:
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
