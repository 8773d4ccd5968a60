# SPDX-License-Identifier: MIT
"""The loops over time, forward and backward, of one LSTM layer in one direction.

`lstm_forward` and `lstm_backward` have the arguments and results of `fastlstm.reference`, which
says what they compute. Here is how:

* The arguments are checked (`checks`), then everything runs on pointers without the GIL.
* Rows of different length are put in order, longest first, and rows without a step are left out.
  So the rows that have a step t are the first ``active[t]``, and nothing is computed in vain.
* W_ih x[t] is formed for a chunk of time at once, straight into the buffer of the gates; a step
  adds W_hh h[t-1] there and activates the gates in place. Or a step multiplies x, too (`_job`).
* The backward loop replaces the gates by their gradients in place. After it one product each
  gives dw_hh, dw_ih and dx: their sums run over all steps and rows.
* A step is one of csrc/step.inc.h (SIMD, packed weights) where this processor has one that serves
  the variant (`_packed`), else one of `_blas_step`. A team of threads shares the SIMD steps by
  rows or by units (`_loops`); bits do not depend on it.
"""

from libc.string cimport memset
from numpy cimport ndarray

import numpy as np

from . import checks, reference
from .masks import cell_masks
from .segments import Checkpointed, CheckpointTape, backward_in_pieces
from .sequences import Steps
from .spec import Spec
from .tape import StepNorms, Tape
from ._rows import by_length, in_callers_rows, resets_of, sorted_input
from ._variants import variant_memory

from ._arrays cimport View, address, view_of
from ._beside cimport Beside
from ._blas_step cimport backward_scratch
from ._csrc cimport fl_lstm, fl_work
from ._job cimport Job, cut_time, describe, interrupted, team_size
from ._loops cimport backward_work, forward_work, gradient_work
from ._memory cimport Scratch, aligned, contiguous, empty
from ._packed cimport KeptWeights, Weights, weights_once
from ._team cimport team_share, team_together
from ._variants cimport describe_in_full, use_gradients, use_memory

__all__ = ["Direction", "lstm_backward", "lstm_forward"]


cdef inline rows_contiguous(a):
    """``a`` (T, B, .) with the numbers of each row side by side."""
    return a if view_of(a).stride[2] == 1 else np.ascontiguousarray(a)


cdef void run_loop(int n, fl_work loop, Job *job) noexcept nogil:
    """A loop over time by up to n threads, as `team_size` said."""
    if job.by_units:
        team_together(n, loop, job)
    else:
        team_share(n, loop, job)


# -- one direction of one layer --------------------------------------------------------------

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
    pairs = True  # the two directions of a layer can run side by side: `beside`

    cdef readonly object spec
    cdef KeptWeights weights
    cdef Scratch scratch  # None while a call uses it

    def __init__(self, spec, bint frozen=False):
        self.spec, self.weights, self.scratch = spec, KeptWeights(spec, frozen), Scratch()

    cdef Scratch borrow(self):
        """Scratch memory: that of the last call, or new where another call has it."""
        cdef Scratch scratch = self.scratch
        self.scratch = None
        return Scratch() if scratch is None else scratch

    def forward(
        self, ndarray x, dict weights, tuple start, y, tuple end, lengths=None, bint reverse=False,
        bint save=False, mask=None, reset=None, rng=None, Beside beside=None,
    ):
        """Write y and the final state to end; returns the tape, or None without ``save``.

        x (T, B, I), y (T, B, H|P); start (h0, c0) and end (h_n, c_n), (B, H|P) and (B, H);
        h0, c0 None: zeros. h_n, c_n are contiguous. mask (T, B) of bool: where rows stand still;
        reset: before which steps the state is set to zeros. rng draws the masks of the spec, or is
        these masks; None: none. beside: the other direction.
        """
        h0, c0 = start
        h_n, c_n = end
        masks = {}
        if rng is not None:
            shape = x.shape[0], x.shape[1], c_n.shape[1]
            masks = cell_masks(self.spec, rng, shape, h_n.shape[1], x.dtype)
        packed = self.weights.get(weights, masks, x.shape[0], x.shape[1])
        kept = masked_forward(self, packed, x, h0, c0, y, h_n, c_n, lengths, reverse, save, mask,
                              reset, masks, beside)
        if not save:
            return None
        h0 = empty(h_n.shape, x.dtype, zeros=True) if h0 is None else h0
        c0 = empty(c_n.shape, x.dtype, zeros=True) if c0 is None else c0
        of = weights.get  # by position: names take 1 us
        inputs = checks.Inputs(x, of("w_ih"), of("w_hh"), of("b"), h0, c0, of("w_proj"), lengths,
                               reverse, self.spec, y, of("w_peephole"), of("w_fgr"), of("ln_x"),
                               of("ln_h"), of("ln_c"), masks, mask)
        return Tape(inputs, *kept)

    def backward(
        self, tape, dy, tuple dend, tuple dstart, dict dw, keep=False, bint add=False,
        Beside beside=None,
    ):
        """Write dstart and the gradients dw (name -> contiguous array); returns dx.

        dy (T, B, H|P) or None; dend (dh_n, dc_n), None: zeros; dstart (dh0, dc0). add: dw holds
        the sums over later steps, which go on. beside: the other direction.
        """
        dh_n, dc_n = dend
        dh0, dc0 = dstart
        dx, _ = masked_backward(self, tape, dy, dh_n, dc_n, dh0, dc0, dw, keep, False, add, beside)
        return dx


cdef masked_forward(
    Direction self, Weights weights, x, h0, c0, y, h_n, c_n, lengths, bint reverse, bint save,
    mask, reset, dict masks, Beside beside=None,
):
    """`run_forward` on the steps that the mask does not leave out."""
    if mask is None:
        return run_forward(self, weights, x, h0, c0, y, h_n, c_n, lengths, reverse, save, reset,
                           masks, beside)
    steps = Steps(mask, lengths, reverse)
    h = np.empty((steps.K, *y.shape[1:]), y.dtype)
    masks = {name: steps.front(m) if m.ndim == 3 else m for name, m in masks.items()}
    if reset is not None:
        reset = steps.place_resets(reset, reverse)
    kept = run_forward(self, weights, steps.front(x), h0, c0, h, h_n, c_n, steps.lengths, reverse,
                       save, reset, masks, None)
    steps.spread(h, h0, y)
    if steps.at_end is not None:
        h_n[steps.at_end], c_n[steps.at_end] = 0, 0
    return (*kept, steps) if save else None


cdef masked_backward(
    Direction self, tape, dy, dh_n, dc_n, dh0, dc0, dict dw, keep, bint step_norms, bint add=False,
    Beside beside=None,
):
    """`run_backward` on the steps that the mask does not leave out."""
    steps, first = tape.steps, None
    if steps is not None and steps.at_end is not None:  # zeros, whatever was before
        dh_n, dc_n = (None if d is None else np.where(steps.at_end[:, None], d.dtype.type(0), d)
                      for d in (dh_n, dc_n))
    if steps is not None and dy is not None:
        dy, first = steps.collect(dy)
    dx, norms = run_backward(self, tape, dy, dh_n, dc_n, dh0, dc0, dw, keep, step_norms, add,
                             beside if steps is None else None)
    if first is not None:
        dh0 += first
    return dx if steps is None else steps.back(dx), norms


# -- forward ---------------------------------------------------------------------------------

cdef run_forward(
    Direction self, Weights weights, ndarray x, h0, c0, y, h_n, c_n, lengths, bint reverse,
    bint save, reset, dict masks, Beside beside,
):
    """Write y, h_n and c_n; returns what a Tape keeps, but for the steps; without ``save`` None."""
    cdef fl_lstm q
    cdef Job job
    cdef View view
    cdef Py_ssize_t T = x.shape[0], B = x.shape[1]
    cdef Scratch scratch = None
    order, active = by_length(lengths, T, B)
    ragged, to, ends, given = order is not None, y, (h_n, c_n), (h0, c0)
    if ragged:
        B = len(order)
        x = sorted_input(x, lengths, order)
        h0, c0 = (None if s is None else s[order] for s in given)
    x, h0, c0 = contiguous(x), contiguous(h0), contiguous(c0)
    describe(&job, &q, weights, T, B)
    weights.q.walk ^= T & 1  # the next call begins with the panels that this one ends with
    q.reverse, q.active = reverse, <const Py_ssize_t *>address(active)
    cut_time(&job, save)
    if ragged or view_of(y).stride[2] != 1:
        to = (np.zeros if ragged else np.empty)((T, B, q.P), y.dtype)
    if ragged:
        ends = np.empty((B, q.P), y.dtype), np.empty((B, q.H), y.dtype)
    h = c = gates = m = memory = None
    if not job.variant.plain and job.simd == NULL:
        memory = variant_memory(weights.spec, (T, B, q.H), q.P, save, y.dtype, masks, order)
        use_memory(&job.variant, memory, q.m_slots)
    if save:
        h, c, gates = states_to_keep(&q, y.dtype, h0, c0, ragged)
    else:
        scratch = self.borrow()
        states_in(scratch, &job, ragged)
    if q.w_proj != NULL:
        m = aligned((q.m_slots, B, q.U * q.L), y.dtype, ragged)
    q.m, q.x, q.h0, q.c0 = address(m), address(x), address(h0), address(c0)
    view = view_of(to)
    q.y, q.y_t, q.y_b = view.data, view.stride[0], view.stride[1]
    q.h_n, q.c_n = address(ends[0]), address(ends[1])
    resets = resets_of(reset, order, active, q.U * q.L, y.dtype)
    use_resets(&job, resets)
    cdef int n = team_size(&job)
    if beside is not None and beside.repays(&job):
        beside.begin(&job)
    elif beside is not None and beside.first != NULL:
        with nogil:
            beside.both(&job, forward_work, NULL)
    elif B and T:
        with nogil:
            run_loop(n, forward_work, &job)
    elif not ragged:
        h_n[...], c_n[...] = 0 if h0 is None else h0, 0 if c0 is None else c0
    if scratch is not None:
        self.scratch = scratch
    interrupted(&job)
    if ragged:
        in_callers_rows(order, y, to, (h_n, c_n), ends, given)
    elif to is not y:
        y[...] = to
    if not save:
        return None
    if T == 0:
        gates = gates[:0]  # there is one slot too many
    return h, c, gates, m, order, x, weights, memory, resets


cdef tuple states_to_keep(fl_lstm *q, dtype, h0, c0, bint zeros):
    """New arrays h, c and gates of all steps, which the loop writes and a tape keeps."""
    h = aligned((q.state_slots, q.B, q.h_row), dtype, zeros)
    c = aligned((q.state_slots, q.B, q.U * q.L), dtype, zeros)
    gates = aligned((q.gate_slots, q.B, q.U, 4, q.L), dtype, zeros)
    q.h, q.c, q.gates = address(h), address(c), address(gates)
    if q.T == 0:  # else the first step of a row puts its initial state there
        h[...], c[...] = 0, 0
        h[0, :, :q.P], c[0, :, :q.H] = 0 if h0 is None else h0, 0 if c0 is None else c0
    return h, c, gates


cdef int states_in(Scratch scratch, Job *job, bint zeros) except -1:
    """h and c of two steps, and the gates of a chunk, which stay in registers where x is fused."""
    cdef fl_lstm *q = job.q
    cdef Py_ssize_t item = 8 if job.is_f64 else 4
    cdef Py_ssize_t states = (2 * q.B * (q.h_row + q.U * q.L) * item + 63) // 64 * 64
    cdef Py_ssize_t gates = 0 if job.fused else q.gate_slots * q.B * q.U * 4 * q.L * item
    cdef char *start = scratch.take(states + gates)
    if zeros:
        memset(start, 0, states + gates)
    q.h, q.c, q.gates = start, start + 2 * q.B * q.h_row * item, start + states
    return 0


cdef int use_resets(Job *job, resets) except -1:
    """Let the loops find what `resets_of` gave."""
    if resets is not None:
        index, cells = resets
        job.resets, job.c_kept = <const Py_ssize_t *>address(index), address(cells)
    return 0


# -- backward --------------------------------------------------------------------------------

cdef run_backward(
    Direction self, tape, dy, dh_n, dc_n, dh0, dc0, dict dw, keep, bint step_norms, bint add,
    Beside beside,
):
    """dx, and the norms of the gradients at each step, or None."""
    cdef fl_lstm q
    cdef Job job
    cdef View view
    cdef Weights weights = tape.weights
    cdef ndarray x = tape.x
    inputs, order = tape.inputs, tape.order
    cdef Py_ssize_t T = x.shape[0], B = x.shape[1]
    ragged, dtype = order is not None, x.dtype
    _, active = by_length(tape.lengths, T, inputs.B if ragged else B)
    weights.prepare_backward(T * B, add)
    describe(&job, &q, weights, T, B)
    q.reverse, q.active, q.add = inputs.reverse, <const Py_ssize_t *>address(active), add
    use_resets(&job, tape.resets)
    dh, dc = gradients_at_end(&q, dh_n, dc_n, dh0, dc0, order, dtype)
    if dy is not None:
        dy = rows_contiguous(dy.take(order, axis=1) if ragged else dy)
        view = view_of(dy)
        q.dy, q.dy_t, q.dy_b = view.data, view.stride[0], view.stride[1]
    dx = empty((T, B, q.I), dtype)
    full = empty((T, inputs.B, q.I), dtype) if ragged else dx
    dh_all = dm = norms = None
    if q.w_proj != NULL:
        dh_all = aligned((T, B, q.h_row), dtype, ragged)
        dm = aligned((B, q.U * q.L), dtype)
    q.dx, q.dh_all, q.dm = address(dx), address(dh_all), address(dm)
    # the cells before a reset have their slots for a while: not where others may read the tape
    c = tape._c.copy() if keep and tape.resets is not None else tape._c
    use_tape(&q, tape, c, dw)
    _kept = None if tape.kept is None else use_kept(&job, tape.kept, dw, dtype, keep)
    if step_norms:
        norms = aligned((T, B, q.U, 2), dtype, True)
        q.norms, q.variant = address(norms), True
        describe_in_full(&job.variant, weights.spec, weights.arrays)
    cdef int n = team_size(&job)
    cdef bint begins = beside is not None and beside.repays(&job)
    cdef bint ends = beside is not None and beside.first != NULL
    cdef Scratch scratch = self.borrow()
    gradients_in(scratch, &job, 1 if begins or ends else n)
    gates = tape.consume(keep)  # only now: what failed so far can be tried again
    q.gates = address(gates)
    if begins:
        beside.begin(&job)
    elif ends:
        with nogil:
            beside.both(&job, backward_work, gradient_work)
    elif B and T:
        with nogil:
            run_loop(n, backward_work, &job)
            if not job.interrupted:
                team_share(n, gradient_work, &job)
    elif not add:  # without a step all gradients of the weights are 0
        for d in dw.values():
            d[...] = 0
    self.scratch = scratch
    interrupted(&job)

    if "weight_drop" in inputs.masks:
        dw["w_hh"] *= inputs.masks["weight_drop"]
    if step_norms:
        norms = norms_of_steps(norms, dh_all if job.simd != NULL else None, tape)
    if ragged:
        dh, dc = dh[:, :q.P], dc[:, :q.H]
        in_callers_rows(order, full, dx, (dh0, dc0), (dh, dc), (dh_n, dc_n))
    elif dh is not dh0:
        dh0[...], dc0[...] = dh[:, :q.P], dc[:, :q.H]
    return full, norms


cdef tuple gradients_at_end(fl_lstm *q, dh_n, dc_n, dh0, dc0, order, dtype):
    """dh and dc as the loop reads and writes them: to begin with those of the final state.

    They are dh0 and dc0 themselves where these have the loop's rows, whole vectors.
    """
    if order is None and q.h_row == q.P and q.U * q.L == q.H:
        q.dh, q.dc = address(dh0), address(dc0)
        put(q.dh, q.B * q.P * dtype.itemsize, dh0, dh_n)
        put(q.dc, q.B * q.H * dtype.itemsize, dc0, dc_n)
        return dh0, dc0
    dh, dc = aligned((q.B, q.h_row), dtype, True), aligned((q.B, q.U * q.L), dtype, True)
    if dh_n is not None:
        dh[:, :q.P] = dh_n if order is None else dh_n[order]
    if dc_n is not None:
        dc[:, :q.H] = dc_n if order is None else dc_n[order]
    q.dh, q.dc = address(dh), address(dc)
    return dh, dc


cdef int put(void *start, Py_ssize_t size, to, value) except -1:
    """to := value, or zeros where it is None: an array that starts there, of so many bytes."""
    if value is None:  # NumPy takes 0.6 us to say so
        memset(start, 0, size)
    else:
        to[...] = value
    return 0


cdef int use_tape(fl_lstm *q, tape, c, dict dw) except -1:
    """Let the loops find the tape, its cells apart from it, but for its gates, and where the
    gradients of weights go."""
    q.x, q.h, q.c = address(tape.x), address(tape._h), address(c)
    q.m = address(tape.h_raw)
    q.state_slots, q.gate_slots, q.m_slots = q.T + 1, max(1, q.T), max(1, q.T)
    q.dw_ih, q.dw_hh = address(dw["w_ih"]), address(dw["w_hh"])
    q.db, q.dw_proj = address(dw.get("b")), address(dw.get("w_proj"))
    q.dw_peephole = address(dw.get("w_peephole"))
    return 0


cdef tuple use_kept(Job *job, dict memory, dict dw, dtype, keep):
    """Let the loops find what the tape of a variant keeps; returns what must live meanwhile."""
    cdef fl_lstm *q = job.q
    if keep:
        memory = {name: a.copy() for name, a in memory.items()}
    use_memory(&job.variant, memory, q.m_slots)
    difo = np.zeros((q.B, 3 * q.H), dtype) if job.variant.w_fgr != NULL else None
    use_gradients(&job.variant, dw, difo, q.add)
    return memory, difo


cdef int gradients_in(Scratch scratch, Job *job, int n) except -1:
    """What each of n threads works in."""
    cdef fl_lstm *q = job.q
    cdef Py_ssize_t size
    if job.simd == NULL:
        size = backward_scratch(q)
    else:
        size = job.simd.gradient_scratch[job.is_f64](q, 0, (q.U + n - 1) // n)
    size *= 8 if job.is_f64 else 4
    job.scratch_size = (size + 63) // 64 * 64
    job.scratch = scratch.take(n * job.scratch_size)
    return 0


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
    weights = weights_once(q.weights, q.masks, spec, q.T, q.B)
    kept = masked_forward(Direction(spec), weights, q.x, q.h0, q.c0, q.y, h_n, c_n, q.lengths,
                          q.reverse, save, q.mask, q.reset, q.masks)
    return q.y, (h_n, c_n), Tape(q, *kept) if save else None


def lstm_backward(
    tape, dy=None, dstate=None, *, keep=False, step_norms=False, k1=None, k2=None
):
    q, dy, dh_n, dc_n = checks.backward_inputs(tape, dy, dstate)
    k1, k2 = checks.truncation(k1, k2, q.spec, step_norms)
    dw = {name: aligned(w.shape, w.dtype) for name, w in q.weights.items()}
    dh0, dc0 = aligned((q.B, q.P), dh_n.dtype), aligned((q.B, q.H), dc_n.dtype)
    if k1 is not None or isinstance(tape, CheckpointTape):
        return backward_in_pieces(
            tape, Direction(q.spec), dy, (dh_n, dc_n), (dh0, dc0), dw, step_norms, k1, k2
        )
    dx, norms = masked_backward(Direction(q.spec), tape, dy, dh_n, dc_n, dh0, dc0, dw, keep,
                                step_norms)
    return (dx, (dh0, dc0), dw, norms) if step_norms else (dx, (dh0, dc0), dw)


lstm_forward.__doc__ = reference.lstm_forward.__doc__
lstm_backward.__doc__ = reference.lstm_backward.__doc__
