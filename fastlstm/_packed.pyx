# SPDX-License-Identifier: MIT
"""The weights as the steps read them: packed once, and kept while they hold the same numbers."""

from libc.string cimport memcmp

import numpy as np

from ._memory import aligned
from ._variants import NOT_IN_STEP

from ._arrays cimport address, view_of
from ._csrc cimport fl_flag_is_up, fl_raise_flag, fl_team_share
from ._kernels cimport kernels, threads
from ._memory cimport contiguous

# The fields of Spec that the SIMD steps serve
SIMD_FIELDS = NOT_IN_STEP | {"peepholes", "coupled", "cell_clip"}
# Rows of a whole backward pass up to which packing the transposed weights does not pay.
cdef Py_ssize_t UNPACKED_ROWS = 8
# Bytes from which the team compares: 10,1,256,512 takes 0.9 of the time (Zen 3, 2026-11), but with
# a MiB 10,1,128,256 takes 1.13.
cdef Py_ssize_t SHARED_BYTES = 1 << 21


cdef inline const fl_kernels *simd_for(spec) except? NULL:
    """The kernels whose steps serve this cell; NULL: the BLAS step does, which serves all."""
    if spec.changed and not spec.changed.keys() <= SIMD_FIELDS:
        return NULL
    return kernels


cdef struct Comparison:
    const char *a
    const char *b
    Py_ssize_t size
    int differ  # a flag of pool.h


cdef void compare(void *arg, int share, int n) noexcept nogil:
    """One share of a comparison."""
    cdef Comparison *job = <Comparison *>arg
    cdef Py_ssize_t start = job.size * share // n, stop = job.size * (share + 1) // n
    if not fl_flag_is_up(&job.differ) and memcmp(job.a + start, job.b + start, stop - start) != 0:
        fl_raise_flag(&job.differ)


cdef bint same_bytes(a, b) except -1:
    """Whether two contiguous arrays of one dtype, or None, hold the same."""
    cdef Comparison job
    if a is None or b is None or a.shape != b.shape:
        return a is b
    job.a, job.b = <const char *>address(a), <const char *>address(b)
    job.size, job.differ = a.nbytes, 0
    if job.size < SHARED_BYTES:
        compare(&job, 0, 1)
    else:
        with nogil:
            fl_team_share(threads, compare, &job)
    return not job.differ


cdef class Weights:
    """The weights of a call: as they are for the BLAS step, packed for the SIMD step.

    Packed once and kept as long as the caller's weights hold the same numbers: `matches` compares
    them with a copy, which costs 1/T of the product with them. For a single step of few rows that
    would be most of the time: it runs on the weights as they are, ``pack=False``.
    """

    def __cinit__(self, dict arrays, spec, bint copy, bint pack=True):
        self.spec, self.simd = spec, simd_for(spec)
        self.is_f64 = arrays["w_hh"].dtype == np.float64
        if copy:
            self.arrays = {k: None if w is None else np.array(w, order="C")
                           for k, w in arrays.items()}
        else:
            self.arrays = {k: contiguous(w) for k, w in arrays.items()}
        if self.simd != NULL:
            self.L = self.simd.lanes[self.is_f64]
            self.pack_peepholes()
            if pack:
                self.pack()

    cdef int pack_peepholes(self) except -1:
        """The panel that the steps read both ways."""
        w_hh, w_peephole = self.arrays["w_hh"], self.arrays.get("w_peephole")
        cdef Py_ssize_t H = w_hh.shape[0] // 4
        if w_peephole is not None:
            self.peephole_panel = aligned(((H + self.L - 1) // self.L, 3, self.L), w_hh.dtype)
            self.simd.pack_peepholes[self.is_f64](H, address(w_peephole),
                                                  address(self.peephole_panel))
        return 0

    cdef int pack(self) except -1:
        """The panels of the forward steps."""
        w_ih, w_hh, b = self.arrays["w_ih"], self.arrays["w_hh"], self.arrays.get("b")
        w_proj = self.arrays.get("w_proj")
        cdef Py_ssize_t H = w_hh.shape[0] // 4, I = w_ih.shape[1], P = w_hh.shape[1], L = self.L
        U, dtype = (H + L - 1) // L, w_ih.dtype
        self.panels = aligned((U, I + P, 4, L), dtype)
        self.b_panel = aligned((U, 4, L), dtype)
        self.simd.pack_panels[self.is_f64](H, I, P, address(w_ih), address(w_hh),
                                           address(self.panels))
        self.simd.pack_bias[self.is_f64](H, address(b), address(self.b_panel))
        if w_proj is not None:
            self.m_panels = aligned((H, (P + L - 1) // L * L), dtype)
            self.simd.pack_projection[self.is_f64](H, P, address(w_proj), address(self.m_panels))
        return 0

    cdef int pack_transposed(self) except -1:
        """The columns of the backward steps, when they are first needed."""
        w_ih, w_hh, w_proj = (self.arrays.get(name) for name in ("w_ih", "w_hh", "w_proj"))
        cdef Py_ssize_t H = w_hh.shape[0] // 4, I = w_ih.shape[1], P = w_hh.shape[1], L = self.L
        if self.h_columns is not None:
            return 0
        U, dtype = (H + L - 1) // L, w_ih.dtype
        x_columns = aligned((U, 4, L, (I + L - 1) // L * L), dtype)
        h_columns = aligned((U, 4, L, (P + L - 1) // L * L), dtype)
        self.simd.pack_columns[self.is_f64](H, I, address(w_ih), address(x_columns))
        self.simd.pack_columns[self.is_f64](H, P, address(w_hh), address(h_columns))
        if w_proj is not None:
            self.m_columns = aligned((P, U * L), dtype)
            self.simd.pack_projection_columns[self.is_f64](H, P, address(w_proj),
                                                           address(self.m_columns))
        self.x_columns, self.h_columns = x_columns, h_columns
        return 0

    cdef int prepare_backward(self, Py_ssize_t rows, bint add) except -1:
        """Pack the columns, unless the steps of so few rows can do without: whole vectors, no
        projection, no sums that go on."""
        cdef Py_ssize_t I = self.arrays["w_ih"].shape[1], P = self.arrays["w_hh"].shape[1]
        if self.simd == NULL:
            return 0
        whole = I % self.L == 0 == P % self.L and self.arrays.get("w_proj") is None
        if add or not whole or rows > UNPACKED_ROWS:
            self.pack_transposed()
        return 0

    cdef bint matches(self, dict arrays) except -1:
        """Whether they were packed from these numbers, for these kernels."""
        if self.simd == NULL or self.simd != simd_for(self.spec):
            return False
        for name, w in arrays.items():
            kept = self.arrays.get(name)
            if w is not None and (not view_of(w).contiguous or kept is None
                                  or w.dtype != kept.dtype):
                return False
            if not same_bytes(w, kept):
                return False
        return True


cdef dict dropped(dict arrays, dict masks):
    """The weights with W_hh as its mask leaves it, where there is one."""
    if "weight_drop" not in masks:
        return arrays
    return {**arrays, "w_hh": arrays["w_hh"] * masks["weight_drop"]}


cdef inline bint runs_unpacked(dict arrays, Py_ssize_t T, Py_ssize_t B) except -1:
    """Whether a call is a step of so few rows that it should read the weights as they are."""
    return T == 1 and kernels != NULL and B <= kernels.tile_rows and arrays.get("w_proj") is None


cdef class KeptWeights:
    """The weights of one direction from call to call. Several threads may use it at once.

    Parameters
    ----------
    spec : Spec
    frozen : bool
        The weights never change: they are packed once and not compared again.
    """

    def __init__(self, spec, bint frozen=False):
        self.spec, self.frozen = spec, frozen

    cdef Weights get(self, dict arrays, dict masks, Py_ssize_t T, Py_ssize_t B, bint save):
        """The weights of a call, packed now or before, or for a single step not at all."""
        cdef Weights weights = self.packed  # a local: another thread may replace it
        if "weight_drop" in masks:
            return Weights(dropped(arrays, masks), self.spec, False)
        if not self.frozen and runs_unpacked(arrays, T, B):
            return self.as_they_are(arrays, save)
        if weights is None or not (self.frozen or weights.matches(arrays)):
            simd = simd_for(self.spec) != NULL
            self.packed = weights = Weights(arrays, self.spec, simd)
        return weights

    cdef Weights as_they_are(self, dict arrays, bint save):
        """For a single step. Those of the last one serve again where the arrays are the same: they
        hold no numbers, but for peepholes, and the columns that a backward pass will pack."""
        cdef Weights weights = self.unpacked
        keeps = not save and arrays.get("w_peephole") is None
        if keeps and weights is not None and weights.simd == simd_for(self.spec):
            for name, w in arrays.items():
                if weights.arrays.get(name) is not w:
                    break
            else:
                return weights
        weights = Weights(arrays, self.spec, False, False)
        if keeps:
            self.unpacked = weights
        return weights


cdef Weights weights_once(dict arrays, dict masks, spec, Py_ssize_t T, Py_ssize_t B):
    """The weights of a call that no other will follow."""
    arrays = dropped(arrays, masks)
    return Weights(arrays, spec, False, not runs_unpacked(arrays, T, B))
