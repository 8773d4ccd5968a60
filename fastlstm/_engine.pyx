# SPDX-License-Identifier: MIT
"""The loops over time, forward and backward, of one LSTM layer in one direction.

`lstm_forward` and `lstm_backward` have the arguments and results of `fastlstm.reference`, which
says what they compute. Here is how:

* The arguments are checked (`checks`), then everything runs on pointers without the GIL.
* Rows of different length are put in order, longest first, and rows without a step are left out.
  So the rows that have a step t are the first ``active[t]``, and nothing is computed in vain.
* W_ih x[t] is formed for a chunk of time at once, straight into the buffer of the gates; a step
  adds W_hh h[t-1] there and activates the gates in place.
* The backward loop replaces the gates by their gradients in place. After it one product each
  gives dw_hh, dw_ih and dx: their sums run over all steps and rows.
* A step is one of csrc/step.inc.h (SIMD, packed weights) where this processor has one that serves
  the variant (`simd_for`), else one of `_blas_step`. A team of threads shares the SIMD steps by
  rows or by units (`_loops`); bits do not depend on it.
"""

from cpython.mem cimport PyMem_RawCalloc, PyMem_RawFree, PyMem_RawMalloc
from libc.stdint cimport uintptr_t
from libc.string cimport memcmp, memset

import numpy as np

from . import checks, reference
from .masks import cell_masks
from .segments import Checkpointed, CheckpointTape, backward_in_pieces
from .sequences import Steps
from .spec import Spec
from .tape import StepNorms, Tape
from ._variants import NOT_IN_STEP, variant_memory

from ._arrays cimport View, address, view_of
from ._blas_step cimport backward_scratch
from ._csrc cimport (
    fl_best_isa, fl_flush_denormals, fl_isas, fl_kernels, fl_kernels_for, fl_lstm,
    fl_restore_denormals, fl_team_share, fl_team_together, fl_work,
)
from ._gates cimport (
    fl_squash, libm_sigmoid_f32, libm_sigmoid_f64, libm_tanh_f32, libm_tanh_f64,
)
from ._loops cimport (
    Job, PyThread_get_thread_ident, backward_work, forward_work, gradient_work,
)
from ._variants cimport (
    describe_in_full, describe_variant, name_peepholes, use_gradients, use_memory,
)

__all__ = [
    "Direction", "elementwise", "get_isa", "get_threads", "isas", "lstm_backward", "lstm_forward",
    "set_isa", "set_threads",
]


# -- which kernels, how many threads ---------------------------------------------------------

cdef const fl_kernels *kernels = fl_kernels_for(fl_best_isa())  # NULL: none
cdef int threads = 1


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


def set_threads(int n):
    """Let the team have at most n threads."""
    global threads
    threads = n


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


# -- arrays and pointers ---------------------------------------------------------------------

cdef inline contiguous(a):
    """``a`` with its numbers in C order; None stays None."""
    return a if a is None or view_of(a).contiguous else np.ascontiguousarray(a)


cdef inline rows_contiguous(a):
    """``a`` (T, B, .) with the numbers of each row side by side."""
    return a if view_of(a).stride[2] == 1 else np.ascontiguousarray(a)


def aligned(shape, dtype, bint zeros=False):
    """A new array that starts on a cache line."""
    cdef Py_ssize_t count = 1, skip
    for size in shape:
        count *= size
    itemsize = dtype.itemsize
    raw = (np.zeros if zeros else np.empty)(count * itemsize + 64, np.uint8)
    skip = -<Py_ssize_t>address(raw) & 63
    return raw[skip:skip + count * itemsize].view(dtype).reshape(shape)


cdef Py_ssize_t allocations_left = 0  # until the one that fails; 0: none does


def fail_allocation(Py_ssize_t n):
    """Let the n-th native allocation from now on fail, once; 0: none. For tests.

    Returns
    -------
    left : int
        Of the n before: how many were still to come; 0 = the failure came, or none was asked for.
    """
    global allocations_left
    left, allocations_left = allocations_left, n
    return left


cdef void *allocate(Py_ssize_t size, bint zeros, what) except NULL:
    """``size`` bytes for PyMem_RawFree. All native memory that is no array comes from here."""
    global allocations_left
    cdef void *memory = NULL
    cdef bint fails = allocations_left == 1
    if allocations_left > 0:
        allocations_left -= 1
    if not fails and size >= 0:
        memory = PyMem_RawCalloc(size, 1) if zeros else PyMem_RawMalloc(size)
    if memory == NULL:
        raise MemoryError(f"cannot allocate {size} bytes for {what}")
    return memory


cdef class Scratch:
    """Memory that a call needs only while it runs, kept for the next call."""

    def __dealloc__(self):
        PyMem_RawFree(self.start)

    cdef char *take(self, Py_ssize_t size) except NULL:
        """``size`` bytes that start on a cache line; what was taken before is gone."""
        if size + 64 > self.size:
            PyMem_RawFree(self.start)
            self.size = 0
            self.start = NULL
            self.start = <char *>allocate(size + 64, False, "scratch memory")
            self.size = size + 64
        return self.start + (-<Py_ssize_t>self.start & 63)


cdef bint same_bytes(a, b) except -1:
    """Whether two contiguous arrays of one dtype, or None, hold the same."""
    if a is None or b is None or a.shape != b.shape:
        return a is b
    return memcmp(address(a), address(b), a.nbytes) == 0


_one_step = None  # of the last single step: steps come one after the other


def by_length(lengths, T, B):
    """How the engine orders its rows: longest first, without those of length 0.

    Returns
    -------
    order : ndarray (B',) of intp, or None
        The engine's row k is the caller's row order[k]; None: the caller's order.
    active : ndarray (T,) of intp
        How many rows have a step t. Not to be written.
    """
    global _one_step
    if lengths is None:
        if T != 1:
            return None, np.full(T, B, np.intp)
        active = _one_step  # a local: another thread may replace it
        if active is None or active[0] != B:
            _one_step = active = np.full(1, B, np.intp)
        return None, active
    order = np.argsort(-lengths, kind="stable")[: np.count_nonzero(lengths)]
    return order, np.count_nonzero(lengths[order, None] > np.arange(T), axis=0).astype(np.intp)


def sorted_input(x, lengths, order):
    """x (T, B', I) in the engine's rows, zeros beyond a row's length."""
    x = x.take(order, axis=1)
    x[np.arange(len(x))[:, None] >= lengths[order]] = 0
    return x


# -- the weights as the steps read them ------------------------------------------------------

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
        if self.simd == NULL or self.h_columns is not None:
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

    cdef bint readable_as_they_are(self):
        """Whether the steps of few rows can do without columns: whole vectors, no projection."""
        cdef Py_ssize_t I = self.arrays["w_ih"].shape[1], P = self.arrays["w_hh"].shape[1]
        return I % self.L == 0 == P % self.L and self.arrays.get("w_proj") is None

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


# The fields of Spec that the SIMD steps serve
SIMD_FIELDS = NOT_IN_STEP | {"peepholes", "coupled", "cell_clip"}


cdef inline const fl_kernels *simd_for(spec) except? NULL:
    """The kernels whose steps serve this cell; NULL: the BLAS step does, which serves all."""
    if spec.changed and not spec.changed.keys() <= SIMD_FIELDS:
        return NULL
    return kernels


cdef dict dropped(dict arrays, dict masks):
    """The weights with W_hh as its mask leaves it, where there is one."""
    if "weight_drop" not in masks:
        return arrays
    return {**arrays, "w_hh": arrays["w_hh"] * masks["weight_drop"]}


cdef inline bint runs_unpacked(dict arrays, Py_ssize_t T, Py_ssize_t B) except -1:
    """Whether a call is a step of so few rows that it should read the weights as they are."""
    return T == 1 and kernels != NULL and B <= kernels.tile_rows and arrays.get("w_proj") is None


_gemm_addresses = None


cdef void *blas_gemm(bint is_f64) except NULL:
    """The matrix product of `_blas`, which imports SciPy's BLAS: only when it is needed."""
    global _gemm_addresses
    if _gemm_addresses is None:
        from . import _blas
        _gemm_addresses = _blas.addresses()
    return <void *><uintptr_t>_gemm_addresses[is_f64]


# -- one direction of one layer --------------------------------------------------------------

# Gates in one chunk of the projection: the BLAS step wants few large products, 1 MiB of float32;
# the SIMD step wants its chunk to stay in L2 beside the weights.
cdef Py_ssize_t BLAS_CHUNK = 1 << 18, SIMD_CHUNK = 1 << 16
# Where the projection costs more traffic than it saves, x is multiplied in the step: up to so many
# inputs; and where a thread has the rows to repay reading the weights each step, with panels that
# stay in L1 (40,32,45,45: 281 us by chunks, 275 so), and with weights so large that they leave no
# room in L2 for the chunk (50,64,256,256: 17.4 and 16.7 ms; few rows, 50,8,512,512: 11.6 and 13.9).
cdef Py_ssize_t FUSED_INPUTS = 8, FUSED_PANEL_BYTES = 1 << 15, FUSED_BYTES = 1 << 20
# FLOP below which the team costs more than it brings, by what it shares: of a call for rows, of a
# step for units; and the rows a thread wants at least, lest its tiles be small.
cdef double ROWS_FLOP = 4e5, UNITS_FLOP = 1.5e5
cdef Py_ssize_t ROWS_A_THREAD = 4
# Rows of a whole backward pass up to which packing the transposed weights does not pay.
cdef Py_ssize_t UNPACKED_ROWS = 8
cdef Py_ssize_t NEVER = (<size_t>-1) >> 1


cdef int describe(
    Job *job, fl_lstm *q, Weights weights, Py_ssize_t T, Py_ssize_t B, Py_ssize_t I
) except -1:
    """The sizes, the weights, and which step does the work; the rest 0."""
    memset(q, 0, sizeof(fl_lstm))
    memset(job, 0, sizeof(Job))
    w = weights.arrays
    q.T, q.B, q.I, q.P = T, B, I, w["w_hh"].shape[1]
    q.H = w["w_hh"].shape[0] // 4
    q.w_ih, q.w_hh = address(w["w_ih"]), address(w["w_hh"])
    q.b, q.w_proj = address(w.get("b")), address(w.get("w_proj"))
    job.q, job.simd, job.is_f64 = q, weights.simd, weights.is_f64
    q.w_peephole = address(w.get("w_peephole"))
    if weights.spec.changed:
        name_peepholes(q, weights.spec)
    job.variant.sigmoid, job.variant.tanh = squash(job.is_f64, False), squash(job.is_f64, True)
    describe_variant(&job.variant, weights.spec, w)
    job.caller = PyThread_get_thread_ident()
    job.denormals = fl_flush_denormals()
    fl_restore_denormals(job.denormals)
    job.stop_after = job.alone_after = NEVER
    if job.simd == NULL:
        q.U, q.L, q.h_row = 1, q.H, q.P
        q.gemm = blas_gemm(job.is_f64)
    else:
        q.L = weights.L
        q.U = (q.H + q.L - 1) // q.L
        q.h_row = (q.P + q.L - 1) // q.L * q.L
        q.panels = address(weights.panels)
        q.b_panel = address(weights.b_panel)
        q.x_columns, q.h_columns = address(weights.x_columns), address(weights.h_columns)
        q.m_panels, q.m_columns = address(weights.m_panels), address(weights.m_columns)
        q.peephole_panel = address(weights.peephole_panel)
        q.variant = q.w_proj != NULL or q.peepholes or q.coupled or q.cell_clip > 0
    return 0


cdef inline bint is_fused(const fl_lstm *q, Py_ssize_t tile_rows, Py_ssize_t item):
    """Whether the steps multiply x too, instead of finding its projection in the gates."""
    if q.T == 1 or q.I <= FUSED_INPUTS:
        return True
    cdef Py_ssize_t row = 4 * (q.I + q.P) * item  # of one unit's four gates
    return q.B >= 2 * tile_rows * threads and (
        q.L * row <= FUSED_PANEL_BYTES or q.H * row >= FUSED_BYTES)


cdef int units_team_size(const fl_lstm *q) noexcept nogil:
    """How many threads share the units of a step: one, where a projection needs all of them."""
    if q.w_proj != NULL:
        return 1
    cdef double flop = 8.0 * q.B * q.H * (q.I + q.P)
    return threads if flop >= UNITS_FLOP and (q.U + 3) // 4 >= threads else 1


cdef int team_size(Job *job) noexcept:
    """How many threads a call gets, and what they share: rows, or for few rows the units."""
    cdef fl_lstm *q = job.q
    if job.simd == NULL or threads == 1:
        return 1
    if q.B >= ROWS_A_THREAD * threads:
        return threads if 8.0 * q.B * q.H * (q.I + q.P) * q.T >= ROWS_FLOP else 1
    job.by_units = True
    return units_team_size(q)


cdef void run_together(int n, fl_work work, void *arg) noexcept nogil:
    """work(arg, k, n) in n threads that wait for each other, of the team this process has."""
    fl_team_together(n, work, arg)


cdef void run_loop(int n, fl_work loop, Job *job) noexcept nogil:
    """A loop over time by up to n threads, as `team_size` said."""
    if job.by_units:
        fl_team_together(n, loop, job)
    else:
        fl_team_share(n, loop, job)


cdef int interrupted(const Job *job) except -1:
    """Raise what a signal handler raised during the job: KeyboardInterrupt."""
    return -1 if job.interrupted else 0


cdef class Direction:
    """One direction of one layer: `forward` and `backward` on arrays that were checked.

    It keeps the packed weights and scratch memory from call to call, and may be used by several
    threads at once.

    Parameters
    ----------
    spec : Spec
    frozen : bool
        The weights never change: they are packed once and not compared again.
    """

    adds = True  # `backward` can go on with sums

    cdef readonly object spec
    cdef bint frozen
    cdef Weights weights, unpacked
    cdef Scratch scratch  # None while a call uses it

    def __init__(self, spec, bint frozen=False):
        self.spec, self.frozen, self.scratch = spec, frozen, Scratch()

    cdef Scratch borrow(self):
        """Scratch memory: that of the last call, or new where another call has it."""
        cdef Scratch scratch = self.scratch
        self.scratch = None
        return Scratch() if scratch is None else scratch

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

    cdef Weights packed(self, dict arrays, dict masks, Py_ssize_t T, Py_ssize_t B, bint save):
        """The weights, packed now or before, or for a single step not at all."""
        cdef Weights weights = self.weights  # a local: another thread may replace it
        if "weight_drop" in masks:
            return Weights(dropped(arrays, masks), self.spec, False)
        if not self.frozen and runs_unpacked(arrays, T, B):
            return self.as_they_are(arrays, save)
        if weights is None or not (self.frozen or weights.matches(arrays)):
            simd = simd_for(self.spec) != NULL
            self.weights = weights = Weights(arrays, self.spec, simd)
        return weights

    def forward(
        self, x, dict weights, tuple start, y, tuple end, lengths=None, bint reverse=False,
        bint save=False, mask=None, reset=None, rng=None,
    ):
        """Write y and the final state to end; returns the tape, or None without ``save``.

        x (T, B, I), y (T, B, H|P); start (h0, c0) and end (h_n, c_n), (B, H|P) and (B, H);
        h0, c0 None: zeros. h_n, c_n are contiguous. mask (T, B) of bool: where rows stand still;
        reset: before which steps the state is set to zeros. rng draws the masks of the spec, or is
        these masks; None: none.
        """
        h0, c0 = start
        h_n, c_n = end
        masks = {}
        if rng is not None:
            shape = *x.shape[:2], c_n.shape[1]
            masks = cell_masks(self.spec, rng, shape, h_n.shape[1], x.dtype)
        packed = self.packed(weights, masks, x.shape[0], x.shape[1], save)
        kept = masked_forward(self, packed, x, h0, c0, y, h_n, c_n, lengths, reverse, save, mask,
                              reset, masks)
        if not save:
            return None
        h0, c0 = np.zeros_like(h_n) if h0 is None else h0, np.zeros_like(c_n) if c0 is None else c0
        inputs = checks.Inputs(x=x, h0=h0, c0=c0, lengths=lengths, reverse=reverse,
                               spec=self.spec, y=y, masks=masks, mask=mask,
                               **{"b": None, "w_proj": None, **weights})
        return Tape(inputs, **kept, weights=packed)

    def backward(
        self, tape, dy, tuple dend, tuple dstart, dict dw, keep=False, bint add=False
    ):
        """Write dstart and the gradients dw (name -> contiguous array); returns dx.

        dy (T, B, H|P) or None; dend (dh_n, dc_n), None: zeros; dstart (dh0, dc0). add: dw holds
        the sums over later steps, which go on.
        """
        dh_n, dc_n = dend
        dh0, dc0 = dstart
        dx, _ = masked_backward(self, tape, dy, dh_n, dc_n, dh0, dc0, dw, keep, False, add)
        return dx


cdef masked_forward(
    Direction self, Weights weights, x, h0, c0, y, h_n, c_n, lengths, bint reverse, bint save,
    mask, reset, dict masks,
):
    """`run_forward` on the steps that the mask does not leave out."""
    if mask is None:
        return run_forward(self, weights, x, h0, c0, y, h_n, c_n, lengths, reverse, save, reset,
                           masks)
    steps = Steps(mask, lengths, reverse)
    h = np.empty((steps.K, *y.shape[1:]), y.dtype)
    masks = {name: steps.front(m) if m.ndim == 3 else m for name, m in masks.items()}
    if reset is not None:
        reset = steps.place_resets(reset, reverse)
    kept = run_forward(self, weights, steps.front(x), h0, c0, h, h_n, c_n, steps.lengths, reverse,
                       save, reset, masks)
    steps.spread(h, h0, y)
    if steps.at_end is not None:
        h_n[steps.at_end], c_n[steps.at_end] = 0, 0
    return {**kept, "steps": steps} if save else None


cdef masked_backward(
    Direction self, tape, dy, dh_n, dc_n, dh0, dc0, dict dw, keep, bint step_norms, bint add=False
):
    """`run_backward` on the steps that the mask does not leave out."""
    steps, first = tape.steps, None
    if steps is not None and steps.at_end is not None:  # zeros, whatever was before
        dh_n, dc_n = (None if d is None else np.where(steps.at_end[:, None], d.dtype.type(0), d)
                      for d in (dh_n, dc_n))
    if steps is not None and dy is not None:
        dy, first = steps.collect(dy)
    dx, norms = run_backward(self, tape, dy, dh_n, dc_n, dh0, dc0, dw, keep, step_norms, add)
    if first is not None:
        dh0 += first
    return dx if steps is None else steps.back(dx), norms


cdef run_forward(
    Direction self, Weights weights, x, h0, c0, y, h_n, c_n, lengths, bint reverse, bint save,
    reset, dict masks,
):
    cdef fl_lstm q
    cdef Job job
    cdef View view
    cdef Py_ssize_t T = x.shape[0], B = x.shape[1], item = x.itemsize, states, gate_count
    cdef char *start
    cdef Scratch scratch = None
    order, active = by_length(lengths, T, B)
    ragged, to, ends, given = order is not None, y, (h_n, c_n), (h0, c0)
    if ragged:
        B = len(order)
        x = sorted_input(x, lengths, order)
        h0, c0 = (None if s is None else s[order] for s in given)
    x, h0, c0 = contiguous(x), contiguous(h0), contiguous(c0)
    describe(&job, &q, weights, T, B, x.shape[2])
    if ragged or view_of(y).stride[2] != 1:
        to = (np.zeros if ragged else np.empty)((T, B, q.P), y.dtype)
    if ragged:
        ends = np.empty((B, q.P), y.dtype), np.empty((B, q.H), y.dtype)
    q.reverse, q.save, q.active = reverse, save, <const Py_ssize_t *>address(active)
    job.fused = job.simd != NULL and is_fused(&q, job.simd.tile_rows, item)
    job.chunk = (BLAS_CHUNK if job.simd == NULL else SIMD_CHUNK) // (4 * q.H * B + 1)
    job.chunk = max(1, min(T, job.chunk))
    q.state_slots = T + 1 if save else 2
    q.gate_slots = max(1, T) if save else job.chunk
    q.m_slots = max(1, T) if save else 1
    h = c = gates = m = memory = None
    if not job.variant.plain and job.simd == NULL:
        memory = variant_memory(weights.spec, (T, B, q.H), q.P, save, y.dtype, masks, order)
        use_memory(&job.variant, memory, q.m_slots)
    if save:
        h = aligned((q.state_slots, B, q.h_row), y.dtype, ragged)
        c = aligned((q.state_slots, B, q.U * q.L), y.dtype, ragged)
        gates = aligned((q.gate_slots, B, q.U, 4, q.L), y.dtype, ragged)
        q.h, q.c, q.gates = address(h), address(c), address(gates)
        if T == 0:  # else the first step of a row puts its initial state there
            h[...], c[...] = 0, 0
            h[0, :, :q.P], c[0, :, :q.H] = 0 if h0 is None else h0, 0 if c0 is None else c0
    else:
        scratch = self.borrow()
        states = (2 * B * (q.h_row + q.U * q.L) * item + 63) // 64 * 64
        gate_count = q.gate_slots * B * q.U * 4 * q.L
        start = scratch.take(states + gate_count * item)
        if ragged:
            memset(start, 0, states + gate_count * item)
        q.h, q.c, q.gates = start, start + 2 * B * q.h_row * item, start + states
    if q.w_proj != NULL:
        m = aligned((q.m_slots, B, q.U * q.L), y.dtype, ragged)
    q.m, q.x, q.h0, q.c0 = address(m), address(x), address(h0), address(c0)
    view = view_of(to)
    q.y, q.y_t, q.y_b = view.data, view.stride[0], view.stride[1]
    q.h_n, q.c_n = address(ends[0]), address(ends[1])
    resets = resets_of(reset, order, active, q.U * q.L, y.dtype)
    use_resets(&job, resets)
    cdef int n = team_size(&job)
    if B and T:
        with nogil:
            run_loop(n, forward_work, &job)
    elif not ragged:
        h_n[...], c_n[...] = 0 if h0 is None else h0, 0 if c0 is None else c0
    if scratch is not None:
        self.scratch = scratch
    interrupted(&job)
    if ragged:
        y[...] = 0
        y[:, order] = to
        for end, rows, initial in zip((h_n, c_n), ends, given):
            end[...] = 0 if initial is None else initial
            end[order] = rows
    elif to is not y:
        y[...] = to
    if not save:
        return None
    gates = gates[:T]  # without a step there is one slot too many
    return dict(h=h, c=c, gates=gates, h_raw=m, order=order, x=x, kept=memory, resets=resets)


def resets_of(reset, order, active, width, dtype):
    """Where the engine's rows are reset, and memory for their cells before: None without resets.

    Returns
    -------
    index : ndarray (T, B') of intp
        -1, or the row of ``cells`` that belongs to this step's reset.
    cells : ndarray (n, width)
    """
    if reset is None:
        return None
    rows = reset if order is None else reset[:, order]
    rows = rows & (np.arange(rows.shape[1]) < active[:, None])
    index = np.where(rows, np.cumsum(rows).reshape(rows.shape) - 1, -1).astype(np.intp, "C")
    return index, aligned((np.count_nonzero(rows), width), dtype)


cdef int use_resets(Job *job, resets) except -1:
    """Let the loops find what `resets_of` gave."""
    if resets is not None:
        index, cells = resets
        job.resets, job.c_kept = <const Py_ssize_t *>address(index), address(cells)
    return 0


cdef run_backward(
    Direction self, tape, dy, dh_n, dc_n, dh0, dc0, dict dw, keep, bint step_norms, bint add=False
):
    """dx, and the norms of the gradients at each step, or None."""
    cdef fl_lstm q
    cdef Job job
    cdef View view
    cdef Weights weights = tape.weights
    inputs, order, x, m = tape.inputs, tape.order, tape.x, tape.h_raw
    cdef Py_ssize_t T = x.shape[0], B = x.shape[1], size
    ragged, dtype = order is not None, x.dtype
    _, active = by_length(tape.lengths, T, inputs.B)
    packs = weights.simd != NULL and not weights.readable_as_they_are()
    if add or packs or T * B > UNPACKED_ROWS:
        weights.pack_transposed()
    describe(&job, &q, weights, T, B, x.shape[2])
    q.reverse, q.active, q.add = inputs.reverse, <const Py_ssize_t *>address(active), add
    use_resets(&job, tape.resets)
    dh, dc = aligned((B, q.h_row), dtype, True), aligned((B, q.U * q.L), dtype, True)
    if dh_n is not None:
        dh[:, :q.P] = dh_n[order] if ragged else dh_n
    if dc_n is not None:
        dc[:, :q.H] = dc_n[order] if ragged else dc_n
    if dy is not None:
        dy = rows_contiguous(dy.take(order, axis=1) if ragged else dy)
        view = view_of(dy)
        q.dy, q.dy_t, q.dy_b = view.data, view.stride[0], view.stride[1]
    dx = np.empty((T, B, q.I), dtype)
    full = np.zeros((T, inputs.B, q.I), dtype) if ragged else dx
    dh_all = dm = None
    if q.w_proj != NULL:
        dh_all = aligned((T, B, q.h_row), dtype, ragged)
        dm = aligned((B, q.U * q.L), dtype)

    q.x, q.h, q.c, q.m = address(x), address(tape._h), address(tape._c), address(m)
    q.state_slots, q.gate_slots, q.m_slots = T + 1, max(1, T), max(1, T)
    q.dh, q.dc, q.dh_all, q.dx = address(dh), address(dc), address(dh_all), address(dx)
    q.dm = address(dm)
    q.dw_ih, q.dw_hh = address(dw["w_ih"]), address(dw["w_hh"])
    q.db, q.dw_proj = address(dw.get("b")), address(dw.get("w_proj"))
    q.dw_peephole = address(dw.get("w_peephole"))
    if tape.kept is not None:
        memory = {name: a.copy() for name, a in tape.kept.items()} if keep else tape.kept
        use_memory(&job.variant, memory, q.m_slots)
        difo = np.zeros((B, 3 * q.H), dtype) if job.variant.w_fgr != NULL else None
        use_gradients(&job.variant, dw, difo, add)
    norms = None
    if step_norms:
        norms = aligned((T, B, q.U, 2), dtype, True)
        q.norms, q.variant = address(norms), True
        describe_in_full(&job.variant, weights.spec, weights.arrays)
    cdef int n = team_size(&job)
    if job.simd == NULL:
        size = backward_scratch(&q) * x.itemsize
    else:
        size = job.simd.gradient_scratch[job.is_f64](&q, 0, (q.U + n - 1) // n) * x.itemsize
    cdef Scratch scratch = self.borrow()
    job.scratch_size = (size + 63) // 64 * 64
    job.scratch = scratch.take(n * job.scratch_size)
    gates = tape.consume(keep)  # only now: what failed so far can be tried again
    q.gates = address(gates)
    if B and T:
        with nogil:
            run_loop(n, backward_work, &job)
            if not job.interrupted:
                fl_team_share(n, gradient_work, &job)
    elif not add:  # without a step all gradients of the weights are 0
        for d in dw.values():
            d[...] = 0
    self.scratch = scratch
    interrupted(&job)

    if "weight_drop" in inputs.masks:
        dw["w_hh"] *= inputs.masks["weight_drop"]
    if step_norms:
        norms = norms_of_steps(norms, dh_all if job.simd != NULL else None, tape)
    if not ragged:
        dh0[...], dc0[...] = dh[:, :q.P], dc[:, :q.H]
        return dx, norms
    for d0, rows, d_n in ((dh0, dh[:, :q.P], dh_n), (dc0, dc[:, :q.H], dc_n)):
        d0[...] = 0 if d_n is None else d_n
        d0[order] = rows
    full[:, order] = dx
    return full, norms


def norms_of_steps(squares, dh, tape):
    """StepNorms from the squares (T, B', U, 2) of dh and dc, panel by panel.

    dh (T, B', H|P), where it is given, stands for its squares: beside a projection the SIMD steps
    square what comes to the units.
    """
    rows = squares.sum(axis=2)
    if dh is not None:
        rows[:, :, 0] = (dh * dh).sum(axis=2)
    if tape.steps is not None:
        ordered, rows = rows, np.zeros((len(rows), tape.inputs.B, 2), rows.dtype)
        rows[:, slice(None) if tape.order is None else tape.order] = ordered
        rows = tape.steps.back(rows)
    return StepNorms(*np.sqrt(rows.sum(axis=1)).T)


# -- the functional API ----------------------------------------------------------------------

def lstm_forward(
    x, w_ih, w_hh, b=None, state=None, *, w_peephole=None, w_proj=None, w_fgr=None, ln_x=None,
    ln_h=None, ln_c=None, lengths=None, mask=None, reset=None, reverse=False, spec=Spec(),
    save=True, checkpoint=False, out=None, rng=None,
):
    variants = dict(w_peephole=w_peephole, w_fgr=w_fgr, ln_x=ln_x, ln_h=ln_h, ln_c=ln_c)
    q = checks.forward_inputs(
        x, w_ih, w_hh, b, state, variants, w_proj, lengths, reverse, spec, out
    )
    q.mask = checks.flags("mask", mask, "T, B", (q.T, q.B))
    q.masks = cell_masks(spec, checks.generator(rng), (q.T, q.B, q.H), q.P, q.x.dtype)
    q.reset = checks.flags("reset", reset, "T, B", (q.T, q.B))
    h_n, c_n = np.empty((q.B, q.P), q.x.dtype), np.empty((q.B, q.H), q.x.dtype)
    every = checks.checkpoint(checkpoint, spec)
    if every is not None:
        tape = Checkpointed(Direction(spec), every).forward(
            q.x, q.weights, (q.h0, q.c0), q.y, (h_n, c_n), q.lengths, q.reverse, save,
            mask=q.mask, reset=q.reset, rng=q.masks,
        )
        if tape is not None:
            tape.inputs = q
        return q.y, (h_n, c_n), tape
    arrays = dropped(q.weights, q.masks)
    weights = Weights(arrays, spec, False, not runs_unpacked(arrays, q.T, q.B))
    kept = masked_forward(Direction(spec), weights, q.x, q.h0, q.c0, q.y, h_n, c_n, q.lengths,
                          q.reverse, save, q.mask, q.reset, q.masks)
    return q.y, (h_n, c_n), Tape(q, **kept, weights=weights) if save else None


def lstm_backward(
    tape, dy=None, dstate=None, *, keep=False, step_norms=False, k1=None, k2=None
):
    q, dy, dh_n, dc_n = checks.backward_inputs(tape, dy, dstate)
    k1, k2 = checks.truncation(k1, k2, q.spec, step_norms)
    dw = {name: np.empty(w.shape, w.dtype) for name, w in q.weights.items()}
    dh0, dc0 = np.empty_like(dh_n), np.empty_like(dc_n)
    if k1 is not None or isinstance(tape, CheckpointTape):
        return backward_in_pieces(
            tape, Direction(q.spec), dy, (dh_n, dc_n), (dh0, dc0), dw, step_norms, k1, k2
        )
    dx, norms = masked_backward(Direction(q.spec), tape, dy, dh_n, dc_n, dh0, dc0, dw, keep,
                                step_norms)
    return (dx, (dh0, dc0), dw, norms) if step_norms else (dx, (dh0, dc0), dw)


lstm_forward.__doc__ = reference.lstm_forward.__doc__
lstm_backward.__doc__ = reference.lstm_backward.__doc__
