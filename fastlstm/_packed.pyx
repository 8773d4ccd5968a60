# SPDX-License-Identifier: MIT
"""The weights as the steps read them: packed once, and kept while they hold the same numbers."""

from cpython.ref cimport Py_REFCNT
from libc.string cimport memcmp, memcpy, memset
from numpy cimport PyArray_NBYTES, ndarray

import numpy as np

from ._variants import NOT_IN_STEP

from ._arrays cimport address, alike, view_of
from ._csrc cimport fl_flag_is_up, fl_raise_flag, fl_work
from ._kernels cimport kernels, squash, threads
from ._memory cimport aligned, contiguous
from ._team cimport team_share
from ._variants cimport describe_variant, name_peepholes

# The fields of Spec that the SIMD steps serve
SIMD_FIELDS = NOT_IN_STEP | {"peepholes", "coupled", "cell_clip"}
# Rows of a whole backward pass up to which packing the transposed weights does not pay.
cdef Py_ssize_t UNPACKED_ROWS = 8
# Bytes from which the team compares, and packs. With two threads 10,1,128,256 on weights that were
# handed out takes 0.78 of the time, 10,32,64,128 0.98; training of 5,32,64,128 0.94, of 10,16,64,96
# 0.95 (Zen 3, 2026-11).
cdef Py_ssize_t SHARED_BYTES = 1 << 18, PACKED_BYTES = 1 << 17


cdef inline const fl_kernels *simd_for(spec) except? NULL:
    """The kernels whose steps serve this cell; NULL: the BLAS step does, which serves all."""
    if spec.changed and not spec.changed.keys() <= SIMD_FIELDS:
        return NULL
    return kernels


cdef int share_out(fl_work work, void *job, Py_ssize_t size, Py_ssize_t least) except -1:
    """Do the job on so many bytes, by the team where it is worth it."""
    if size < least:
        work(job, 0, 1)
    else:
        with nogil:
            team_share(threads, work, job)
    return 0


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


cdef bint same_bytes(ndarray a, ndarray b) except -1:
    """Whether two contiguous arrays of one shape and dtype hold the same."""
    cdef Comparison job
    job.a, job.b = <const char *>address(a), <const char *>address(b)
    job.size, job.differ = PyArray_NBYTES(a), 0
    share_out(compare, &job, job.size, SHARED_BYTES)
    return not job.differ


cdef inline const char *keep_units(
    const Packing *job, const char *w, char *kept, Py_ssize_t row, Py_ssize_t u
) noexcept nogil:
    """Copy the rows of w that belong to the units of panel u; returns what is to be packed."""
    cdef Py_ssize_t g, at, size = min(job.L, job.H - u * job.L) * row * job.item
    if kept == NULL:
        return w
    for g in range(4):
        at = (g * job.H + u * job.L) * row * job.item
        memcpy(kept + at, w + at, size)
    return kept


cdef void pack_panels(void *arg, int share, int n) noexcept nogil:
    """One share of the panels, each packed while the copy of its weights is in the cache."""
    cdef const Packing *job = <const Packing *>arg
    cdef Py_ssize_t u, U = (job.H + job.L - 1) // job.L
    cdef const char *w_ih
    cdef const char *w_hh
    for u in range(U * share // n, U * (share + 1) // n):
        w_ih = keep_units(job, job.w_ih, job.kept_ih, job.I, u)
        w_hh = keep_units(job, job.w_hh, job.kept_hh, job.P, u)
        job.simd.pack_panels[job.is_f64](job.H, job.I, job.P, w_ih, w_hh, job.panels, u, u + 1)


cdef void pack_columns(void *arg, int share, int n) noexcept nogil:
    """One share of the columns of both weights."""
    cdef const Packing *job = <const Packing *>arg
    cdef Py_ssize_t group = 4 * job.L, X = (job.I + group - 1) // group
    cdef Py_ssize_t H = (job.P + group - 1) // group
    job.simd.pack_columns[job.is_f64](job.H, job.I, job.w_ih, job.x_columns,
                                      X * share // n, X * (share + 1) // n)
    job.simd.pack_columns[job.is_f64](job.H, job.P, job.w_hh, job.h_columns,
                                      H * share // n, H * (share + 1) // n)


cdef class Weights:
    """The weights of a call: as they are for the BLAS step, packed for the SIMD step.

    Packed once and kept as long as the caller's weights hold the same numbers: `matches` compares
    them with a ``copy``, which costs 1/T of the product with them. For a single step of few rows
    that would be most of the time: it runs on the weights as they are, ``pack=False``.
    """

    def __cinit__(self, dict arrays, spec, bint copy, bint pack=True):
        self.spec, self.simd = spec, simd_for(spec)
        self.is_f64 = arrays["w_hh"].dtype == np.float64
        if self.simd != NULL:
            self.L = self.simd.lanes[self.is_f64]
        self.take(arrays, copy, pack)

    cdef int take(self, dict arrays, bint copy, bint pack) except -1:
        """Have these weights, in the memory of those before."""
        given = {name: contiguous(w) for name, w in arrays.items()}
        if not copy:
            self.arrays = given
        elif self.arrays is None:
            self.arrays = {name: None if w is None else np.empty(w.shape, w.dtype)
                           for name, w in given.items()}
        for name, w in given.items():
            if copy and w is not None and not (self.simd != NULL and name in ("w_ih", "w_hh")):
                self.arrays[name][...] = w
        if self.simd != NULL:
            self.pack_peepholes()
            if pack:
                self.pack(given)
        return self.describe()

    cdef int pack_peepholes(self) except -1:
        """The panel that the steps read both ways."""
        w_hh, w_peephole = self.arrays["w_hh"], self.arrays.get("w_peephole")
        cdef Py_ssize_t H = w_hh.shape[0] // 4
        if w_peephole is not None:
            if self.peephole_panel is None:
                self.peephole_panel = aligned(((H + self.L - 1) // self.L, 3, self.L), w_hh.dtype)
            self.simd.pack_peepholes[self.is_f64](H, address(w_peephole),
                                                  address(self.peephole_panel))
        return 0

    cdef int describe(self) except -1:
        """What a call needs to know of them, once for all calls."""
        cdef fl_lstm *q = &self.q
        cdef Variant *variant = &self.variant
        w = self.arrays
        w_ih, w_hh = w["w_ih"], w["w_hh"]
        memset(q, 0, sizeof(fl_lstm))
        q.H, q.I, q.P = w_hh.shape[0] // 4, w_ih.shape[1], w_hh.shape[1]
        q.w_ih, q.w_hh = address(w_ih), address(w_hh)
        q.b, q.w_proj = address(w.get("b")), address(w.get("w_proj"))
        q.w_peephole = address(w.get("w_peephole"))
        if self.spec.changed:
            name_peepholes(q, self.spec)
        if self.simd == NULL:
            q.U, q.L, q.h_row = 1, q.H, q.P
        else:
            q.L = self.L
            q.U = (q.H + q.L - 1) // q.L
            q.h_row = (q.P + q.L - 1) // q.L * q.L
            q.panels, q.b_panel = address(self.panels), address(self.b_panel)
            q.m_panels, q.peephole_panel = address(self.m_panels), address(self.peephole_panel)
            q.variant = q.w_proj != NULL or q.peepholes or q.coupled or q.cell_clip > 0
        memset(variant, 0, sizeof(Variant))
        variant.sigmoid, variant.tanh = squash(self.is_f64, False), squash(self.is_f64, True)
        return describe_variant(variant, self.spec, w)

    cdef Packing packing(self, dict given) except *:
        """These weights, and where their copies go."""
        cdef Packing job
        memset(&job, 0, sizeof(Packing))
        w_ih, w_hh = given["w_ih"], given["w_hh"]
        job.simd, job.is_f64, job.L, job.item = self.simd, self.is_f64, self.L, w_ih.itemsize
        job.H, job.I, job.P = w_hh.shape[0] // 4, w_ih.shape[1], w_hh.shape[1]
        job.w_ih, job.w_hh = <const char *>address(w_ih), <const char *>address(w_hh)
        if self.arrays["w_ih"] is not w_ih:
            job.kept_ih = <char *>address(self.arrays["w_ih"])
        if self.arrays["w_hh"] is not w_hh:
            job.kept_hh = <char *>address(self.arrays["w_hh"])
        return job

    cdef int pack(self, dict given) except -1:
        """The panels of the forward steps, of the weights ``given``, and their copies."""
        cdef Packing job = self.packing(given)
        b, w_proj = self.arrays.get("b"), self.arrays.get("w_proj")
        U, L, dtype = (job.H + job.L - 1) // job.L, job.L, given["w_ih"].dtype
        if self.panels is None:
            self.panels = aligned((U, job.I + job.P, 4, L), dtype)
            self.b_panel = aligned((U, 4, L), dtype)
            if w_proj is not None:
                self.m_panels = aligned((job.H, (job.P + L - 1) // L * L), dtype)
        job.panels = <char *>address(self.panels)
        share_out(pack_panels, &job, self.panels.nbytes, PACKED_BYTES)
        self.simd.pack_bias[self.is_f64](job.H, address(b), address(self.b_panel))
        if w_proj is not None:
            self.simd.pack_projection[self.is_f64](job.H, job.P, address(w_proj),
                                                   address(self.m_panels))
        if self.h_columns is not None:  # those of the weights before
            self.spare = self.x_columns, self.h_columns, self.m_columns
            self.x_columns = self.h_columns = self.m_columns = None
        return 0

    cdef int pack_transposed(self) except -1:
        """The columns of the backward steps, when they are first needed."""
        if self.h_columns is not None:
            return 0
        cdef Packing job = self.packing(self.arrays)
        w_proj, dtype = self.arrays.get("w_proj"), self.arrays["w_ih"].dtype
        U, L = (job.H + job.L - 1) // job.L, job.L
        memory, self.spare = self.spare, None  # what another thread packs meanwhile is its own
        if memory is None:
            memory = (
                aligned((U, 4, L, (job.I + L - 1) // L * L), dtype),
                aligned((U, 4, L, (job.P + L - 1) // L * L), dtype),
                None if w_proj is None else aligned((job.P, U * L), dtype),
            )
        x_columns, h_columns, m_columns = memory
        job.x_columns, job.h_columns = <char *>address(x_columns), <char *>address(h_columns)
        share_out(pack_columns, &job, h_columns.nbytes, PACKED_BYTES)
        if w_proj is not None:
            self.simd.pack_projection_columns[self.is_f64](job.H, job.P, address(w_proj),
                                                           address(m_columns))
        if self.h_columns is None:  # else another thread may be reading those that are there
            self.x_columns, self.h_columns, self.m_columns = memory
            self.q.x_columns, self.q.h_columns = job.x_columns, job.h_columns
            self.q.m_columns = address(m_columns)
        return 0

    cdef int prepare_backward(self, Py_ssize_t rows, bint add) except -1:
        """Pack the columns, unless the steps of so few rows can do without: whole vectors, no
        projection, no sums that go on."""
        cdef const fl_lstm *q = &self.q
        cdef bint whole
        if self.simd == NULL:
            return 0
        whole = q.I % q.L == 0 and q.P % q.L == 0 and q.w_proj == NULL
        if add or not whole or rows > UNPACKED_ROWS:
            self.pack_transposed()
        return 0

    cdef bint fits(self, dict arrays) except -1:
        """Whether weights of these shapes are packed the same way, for the kernels of now."""
        if self.simd == NULL or self.simd != simd_for(self.spec):
            return False
        if len(arrays) != len(self.arrays):
            return False
        for name, w in arrays.items():
            kept = self.arrays.get(name)
            if w is None or kept is None:
                if w is not kept:
                    return False
            elif not alike(w, kept):
                return False
        return True

    cdef bint matches(self, dict arrays) except -1:
        """Whether they were packed from these numbers."""
        if not self.fits(arrays):
            return False
        for name, w in arrays.items():
            if w is not None and not (view_of(w).contiguous
                                      and same_bytes(w, self.arrays[name])):
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
        The weights never change: they are packed once, not copied and not compared again.
    """

    def __init__(self, spec, bint frozen=False):
        self.spec, self.frozen = spec, frozen

    cdef Weights get(self, dict arrays, dict masks, Py_ssize_t T, Py_ssize_t B):
        """The weights of a call, packed now or before, or for a single step not at all."""
        cdef Weights weights = self.packed  # a local: another thread may replace it
        if "weight_drop" in masks:
            return Weights(dropped(arrays, masks), self.spec, False)
        if not self.frozen and runs_unpacked(arrays, T, B):
            return self.as_they_are(arrays)
        if weights is not None and (self.frozen or weights.matches(arrays)):
            return weights
        self.packed = None  # another thread, or a tape, that has it keeps it
        if weights is not None and Py_REFCNT(weights) == 1 and weights.fits(arrays):
            weights.take(arrays, True, True)
        else:
            weights = Weights(arrays, self.spec, not self.frozen and simd_for(self.spec) != NULL)
        self.packed = weights
        return weights

    cdef Weights as_they_are(self, dict arrays):
        """For a single step. Those of the last one serve again where the arrays are the same: they
        hold no numbers, but for peepholes, and the columns that a backward pass may have packed."""
        cdef Weights weights = self.unpacked
        if (weights is not None and weights.h_columns is None and weights.peephole_panel is None
                and weights.simd == simd_for(self.spec) and len(weights.arrays) == len(arrays)):
            for name, w in arrays.items():
                if weights.arrays.get(name) is not w:
                    break
            else:
                return weights
        self.unpacked = weights = Weights(arrays, self.spec, False, False)
        return weights


cdef Weights weights_once(dict arrays, dict masks, spec, Py_ssize_t T, Py_ssize_t B):
    """The weights of a call that no other will follow."""
    arrays = dropped(arrays, masks)
    return Weights(arrays, spec, False, not runs_unpacked(arrays, T, B))
