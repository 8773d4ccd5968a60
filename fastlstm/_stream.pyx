# SPDX-License-Identifier: MIT
"""The streaming step: one time step a call, the state kept between calls.

Everything is prepared when the stream is made: packed weights, state, and for each layer the
description that a step reads. A call looks at two arrays and runs the steps; it allocates nothing
where it is given ``out``.

A step goes from slot 0 of the state to slot 1, the next from 1 to 0, which is what `reverse` means
in fl_lstm: so nothing is copied, and the panels are walked to and fro.
"""

from cpython.mem cimport PyMem_RawFree
from libc.string cimport memcpy, memset
from numpy cimport (
    NPY_FLOAT32, NPY_FLOAT64, PyArray_DIMS, PyArray_ISCARRAY, PyArray_ISCARRAY_RO,
    PyArray_NDIM, PyArray_TYPE, ndarray,
)

import numpy as np

from . import checks
from ._stack import by_cell, new_states
from ._variants import variant_memory

from ._arrays cimport address
from ._blas_step cimport project, step_forward
from ._csrc cimport fl_lstm
from ._job cimport Job, describe, flop_of_step, step_ns, units_team_size
from ._memory cimport Scratch, allocate
from ._packed cimport Weights
from ._team cimport team_barrier, team_together, team_worth
from ._variants cimport use_memory

__all__ = ["Stream"]

cdef Py_ssize_t LARGEST = (<size_t>-1 >> 1) - 64  # bytes that `Scratch.take` can count
cdef double GIL_FLOP = 1e6  # FLOP of a step, about 20 us, from which others may run meanwhile


cdef struct Layer:
    fl_lstm q
    Job job


cdef struct Step:  # what the team is told
    Layer *layers
    Py_ssize_t L


cdef void one_layer(Layer *layer, int thread, int n) noexcept nogil:
    """One thread's share of one layer's step."""
    cdef fl_lstm *q = &layer.q
    cdef Job *job = &layer.job
    if job.simd != NULL:
        job.simd.step_forward[job.is_f64](q, 0, True, 0, q.B, q.U * thread // n,
                                          q.U * (thread + 1) // n)
    elif thread > 0:
        return
    elif job.is_f64:
        project(<double *>NULL, q, 0, 1)
        step_forward(<double *>NULL, q, &job.variant, 0)
    else:
        project(<float *>NULL, q, 0, 1)
        step_forward(<float *>NULL, q, &job.variant, 0)


cdef void all_layers(void *arg, int thread, int n) noexcept nogil:
    cdef Step *step = <Step *>arg
    cdef Py_ssize_t k
    for k in range(step.L):
        if k > 0:  # a layer reads all of the one below
            team_barrier(n, step_ns(&step.layers[k - 1].job, n))
        one_layer(&step.layers[k], thread, n)


cdef class Stream:
    """Runs a layer step by step; made by `LSTM.stream`.

    The weights are those of the layer at the time of creation: training it later does not
    change a running stream. A stream belongs to one thread at a time.

    Parameters
    ----------
    lstm : LSTM
        Not bidirectional: the other direction would start at the end.
    batch_size : int
        B streams side by side.

    Raises
    ------
    ValueError
        The layer is bidirectional.

    Examples
    --------
    >>> import numpy as np, fastlstm as fl
    >>> stream = fl.LSTM(3, 4, seed=0).stream()
    >>> stream.step(np.ones(3, np.float32)).shape
    (4,)
    """

    cdef readonly Py_ssize_t batch_size, input_size, output_size
    cdef object dtype, check_state, initial  # the layer's, and the state in which it starts
    cdef list widths  # of h and c, layer by layer
    cdef list keep  # the Weights, whose memory the layers point to
    cdef list variants  # as those: layer by layer the memory of `variant_memory`
    cdef Scratch memory
    cdef Layer *layers
    cdef Py_ssize_t L, item, active
    cdef long long alone_ns  # how long a step of all layers takes one thread at most
    cdef bint parity, busy, release_gil

    def __cinit__(self):
        self.memory = Scratch()

    def __dealloc__(self):
        PyMem_RawFree(self.layers)

    def __init__(self, lstm, batch_size=1):
        if lstm.bidirectional:
            raise ValueError(
                "a bidirectional LSTM cannot be streamed: its other direction starts at the end"
            )
        if self.keep is not None:
            raise RuntimeError("a stream is made once")
        self.batch_size = checks.integer("batch_size", batch_size, 1)
        self.input_size, self.output_size = lstm.input_size, lstm.output_size
        self.dtype, self.L = lstm.dtype, lstm.num_layers
        self.item = lstm.dtype.itemsize
        PyMem_RawFree(self.layers)  # of one that could not be made
        self.layers = NULL
        self.layers = <Layer *>allocate(self.L * sizeof(Layer), True, "the layers of a stream")
        self.prepare([Weights(arrays, lstm.spec, True) for arrays in lstm._weights()])
        self.widths = lstm.state_widths
        self.check_state, self.initial = lstm.check_state, lstm.initial_state(batch_size)
        if lstm.learn_state:
            self.reset()

    cdef int prepare(self, list weights) except -1:
        """Describe every layer's step, and give all of them their memory."""
        cdef Py_ssize_t k, item = self.item, B = self.batch_size, size, row = 0
        cdef fl_lstm *q
        cdef char *at
        cdef double flop = 0
        self.variants = []
        self.active = B
        for k in range(self.L):
            q = &self.layers[k].q
            describe(&self.layers[k].job, q, weights[k], 1, B)
            self.variants.append(
                variant_memory(weights[k].spec, (1, B, q.H), q.P, False, self.dtype, {}, None))
            use_memory(&self.layers[k].job.variant, self.variants[k], 1)
            q.active = &self.active
            q.state_slots, q.gate_slots, q.m_slots = 2, 1, 1
            q.y_t = q.y_b = q.P
            row += 2 * q.h_row + 7 * q.U * q.L + q.P
            flop += flop_of_step(q)
            self.alone_ns += step_ns(&self.layers[k].job, 1)
        if B > (LARGEST // item - 64 * self.L) // row:
            raise MemoryError(f"cannot allocate batch_size = {B} times {row * item} bytes")
        size = (B * row + 64 * self.L) * item
        at = self.memory.take(size)
        memset(at, 0, size)
        for k in range(self.L):
            q = &self.layers[k].q
            q.h, at = at, at + 2 * B * q.h_row * item
            q.c, at = at, at + 2 * B * q.U * q.L * item
            q.gates, at = at, at + 4 * B * q.U * q.L * item
            q.m, at = at, at + B * q.U * q.L * item
            q.y, at = at, at + (B * q.P + 15) // 16 * 16 * item
            if k > 0:
                q.x = self.layers[k - 1].q.y
        self.release_gil = flop >= GIL_FLOP
        self.keep = weights
        return 0

    def reset(self):
        """Set the state to that in which the layer starts: zeros, unless it has learned another."""
        self.state = None

    @property
    def state(self):
        """(h, c), copies of shape (L, B, H|P) and (L, B, H); assign to set them.

        Where the layers differ in size, each is a tuple of L arrays (1, B, .). None, also for one
        of them: as `reset` does.

        With full gate recurrence the gates before the next step are set to 0, as at a start.
        """
        cdef fl_lstm *q
        cdef Py_ssize_t k, b, item = self.item
        cdef char[::1] to
        self.must_be_idle()
        states = new_states(self.widths, 1, self.batch_size, self.dtype)
        for k, (h, c) in enumerate(by_cell(states)):
            q = &self.layers[k].q
            for b in range(self.batch_size):
                to = h[b].view(np.int8)
                memcpy(&to[0], self.h_row(q, b), q.P * item)
                to = c[b].view(np.int8)
                memcpy(&to[0], self.c_row(q, b), q.H * item)
        return states

    @state.setter
    def state(self, value):
        cdef fl_lstm *q
        cdef Py_ssize_t k, b, item = self.item
        cdef const char[::1] row
        self.must_be_idle()
        like = ("the stream", np.empty(0, self.dtype))
        given = self.check_state("state", value, "{}", self.batch_size, like, cells="L")
        states = [own if a is None else a for a, own in zip(given, self.initial)]
        for k, (h, c) in enumerate(by_cell(states)):
            q = &self.layers[k].q
            for b in range(self.batch_size):
                row = np.ascontiguousarray(h[b]).view(np.int8)
                memcpy(self.h_row(q, b), &row[0], q.P * item)
                row = np.ascontiguousarray(c[b]).view(np.int8)
                memcpy(self.c_row(q, b), &row[0], q.H * item)
            if "ifo" in self.variants[k]:
                self.variants[k]["ifo"][...] = 0

    cdef int must_be_idle(self) except -1:
        """Refuse what `__new__` alone has made, and what another thread is inside of."""
        if self.keep is None:
            raise RuntimeError("this stream was not initialised: LSTM.stream makes one")
        if self.busy:
            raise RuntimeError("this stream is running in another thread; use one for each")
        return 0

    cdef char *h_row(self, const fl_lstm *q, Py_ssize_t b) noexcept:
        """Row b of the state h that the next step reads."""
        return <char *>q.h + (self.parity * q.B + b) * q.h_row * self.item

    cdef char *c_row(self, const fl_lstm *q, Py_ssize_t b) noexcept:
        return <char *>q.c + (self.parity * q.B + b) * q.U * q.L * self.item

    def step(self, x_t, out=None):
        """The output of one step.

        Parameters
        ----------
        x_t : array_like (B, I), or (I,) where B = 1
        out : ndarray (B, H|P), or (H|P,), optional
            Write the output here; it must be contiguous and not overlap x_t.

        Returns
        -------
        y_t : ndarray (B, H|P), or (H|P,) where x_t is (I,)

        Raises
        ------
        TypeError, ValueError
            The dtype or shape of x_t or of out does not fit.
        RuntimeError
            Another thread is inside this stream.
        """
        self.must_be_idle()
        cdef ndarray x = self.input_array(x_t)
        cdef bint single = PyArray_NDIM(x) == 1 and self.batch_size == 1
        if not self.fits(x, self.input_size, single):
            checks.shape("x_t", x, "I" if single else "B, I", self.shape(self.input_size, single))
        if out is None:
            out = np.empty(self.shape(self.output_size, single), self.dtype)
        cdef ndarray y = self.output_array(out, single)
        cdef char *x_start = <char *>address(x)
        cdef char *y_start = <char *>address(y)
        cdef Py_ssize_t row = self.batch_size * self.item
        if x_start < y_start + row * self.output_size and y_start < x_start + row * self.input_size:
            raise ValueError("out must not overlap x_t, whose memory it shares")
        self.run(x_start, y_start)
        return out

    cdef tuple shape(self, Py_ssize_t size, bint single):
        if single:
            return (size,)
        return self.batch_size, size

    cdef bint fits(self, ndarray a, Py_ssize_t size, bint single) noexcept:
        if single:
            return PyArray_NDIM(a) == 1 and PyArray_DIMS(a)[0] == size
        return (PyArray_NDIM(a) == 2 and PyArray_DIMS(a)[0] == self.batch_size
                and PyArray_DIMS(a)[1] == size)

    cdef bint has_type(self, ndarray a) noexcept:
        return PyArray_TYPE(a) == <int>(NPY_FLOAT64 if self.item == 8 else NPY_FLOAT32)

    cdef ndarray input_array(self, x_t):
        """x_t as a contiguous array of the stream's dtype."""
        if type(x_t) is ndarray and self.has_type(x_t) and PyArray_ISCARRAY_RO(x_t):
            return x_t
        x_t = checks.array("x_t", x_t)
        if x_t.dtype != self.dtype:
            raise TypeError(f"x_t is {x_t.dtype} but the stream is {self.dtype}")
        return np.ascontiguousarray(x_t)

    cdef ndarray output_array(self, out, bint single):
        """``out``, if a step may write there."""
        if type(out) is not ndarray:
            raise TypeError(f"out must be an ndarray, got {type(out).__name__}")
        if not self.has_type(out):
            checks.same_dtype(("the stream", np.empty(0, self.dtype)), out=out)
        if not self.fits(out, self.output_size, single):
            checks.shape("out", out, "H|P" if single else "B, H|P",
                         self.shape(self.output_size, single))
        if not PyArray_ISCARRAY(out):
            raise ValueError("out must be writeable, contiguous, aligned and of native byte order")
        return out

    cdef int run(self, const void *x, void *y) except -1:
        """One step of all layers from x to y."""
        self.must_be_idle()  # an array_like may have run Python code
        cdef Step step = Step(self.layers, self.L)
        cdef Py_ssize_t k
        cdef void *last = self.layers[self.L - 1].q.y
        cdef int n = 1
        self.layers[0].q.x = x
        self.layers[self.L - 1].q.y = y
        for k in range(self.L):
            self.layers[k].q.reverse = self.parity
        if self.release_gil:
            self.busy = True
            for k in range(self.L):
                n = max(n, units_team_size(&self.layers[k].q))
            with nogil:
                team_together(team_worth(n, self.alone_ns), all_layers, &step)
            self.busy = False
        else:
            team_together(1, all_layers, &step)
        self.parity = not self.parity
        self.layers[self.L - 1].q.y = last
        return 0
