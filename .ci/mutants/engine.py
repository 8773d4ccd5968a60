# SPDX-License-Identifier: MIT
"""Faults of the loops over time, the engine and the BLAS step."""

from .tests import LAYER, LSTM, SAME_BITS, SEGMENTS

LOOPS = "fastlstm/_loops.pxd"
ENGINE = "fastlstm/_engine.pyx"
JOB = "fastlstm/_job.pyx"
PACKED = "fastlstm/_packed.pyx"
ROWS = "fastlstm/_rows.pyx"
BLAS = "fastlstm/_blas.pyx"
BLAS_STEP = "fastlstm/_blas_step.pxd"
BLAS_GATES = "fastlstm/_gates.pxd"

MUTANTS = {
    # -- the loops over time
    "loops: the wrong rows of a share": (
        LOOPS,
        "return Share(q.B * thread // n, q.B * (thread + 1) // n, 0",
        "return Share(q.B * thread // n, q.B * (thread + 1) // n - (thread + 1 < n), 0",
        SAME_BITS,
    ),
    "loops: a row that enters late starts from 0": (
        LOOPS,
        "place(c_slot(tag, q, slot) + r * c_row, c_row, c0",
        "place(c_slot(tag, q, slot) + r * c_row, c_row, c0 if r == 0 else NULL",
        LSTM,
    ),
    "loops: h_n from the wrong row": (
        LOOPS,
        "place(<real *>q.h_n + r * q.P, q.P, h_slot(tag, q, slot), r * q.h_row",
        "place(<real *>q.h_n + r * q.P, q.P, h_slot(tag, q, slot), r0 * q.h_row",
        LSTM,
    ),
    "loops: padding lanes keep what was there": (
        LOOPS,
        "memset(to + filled, 0,",
        "memset(to + filled, 255,",
        LSTM,
    ),
    "loops: reverse begins at 0": (LOOPS, "t = q.T - 1 - s if q.reverse else s", "t = s", LSTM),
    "loops: no look at signals": (
        LOOPS,
        "if PyErr_CheckSignals():",
        "if False:",
        "tests/test_import.py",
    ),
    "loops: backward forgets the first step": (
        LOOPS,
        "for s in range(q.T + 1):",
        "for s in range(q.T):",
        LSTM,
    ),
    # -- the engine
    "engine: rows shortest first": (
        ROWS,
        "np.argsort(-lengths, kind",
        "np.argsort(lengths, kind",
        LSTM,
    ),
    "engine: the length is one too long": (
        ROWS,
        "lengths[order, None] > np.arange(T)",
        "lengths[order, None] >= np.arange(T)",
        LSTM,
    ),
    "engine: padding of x is not masked": (
        ROWS,
        "x[np.arange(len(x))[:, None] >= lengths[order]] = 0",
        "pass",
        LSTM,
    ),
    "engine: y of padding is not 0": (ROWS, "    y[...] = 0\n", "", LSTM),
    "engine: results in the engine's order": (
        ROWS,
        "y[:, order] = rows_y",
        "y[:, np.sort(order)] = rows_y",
        LSTM,
    ),
    "engine: dh_n in the caller's order": (
        ENGINE,
        "dh[:, :q.P] = dh_n if order is None else dh_n[order]",
        "dh[:, :q.P] = dh_n if order is None else dh_n[: len(order)]",
        LSTM,
    ),
    "engine: dc_n is left out": (
        ENGINE,
        "    if dc_n is not None:\n",
        "    if dc_n is not None and order is not None:\n",
        LSTM,
    ),
    "engine: a tape can be used twice": (
        ENGINE,
        "gates = tape.consume(keep)",
        "gates = tape._gates",
        LSTM,
    ),
    "engine: keep works in the tape": (
        ENGINE,
        "gates = tape.consume(keep)",
        "gates = tape.consume(False) if not keep else tape._gates",
        LSTM,
    ),
    "engine: changed weights are not seen": (
        PACKED,
        "and same_bytes(w, self.arrays[name])):",
        "and (name == 'b' or same_bytes(w, self.arrays[name]))):",
        LAYER,
    ),
    "engine: weights that a tape needs are overwritten": (
        PACKED,
        "Py_REFCNT(weights) == 1 and ",
        "",
        LAYER,
    ),
    "engine: backward has the columns of the weights before": (
        PACKED,
        "            self.x_columns = self.h_columns = self.m_columns = None\n",
        "",
        LAYER,
    ),
    "engine: the last share of the weights is not packed": (
        PACKED,
        "for u in range(U * share // n, U * (share + 1) // n):",
        "for u in range(U * share // n, U * (share + 1 - (1 < n == share + 1)) // n):",
        LAYER,
    ),
    "engine: the last share of the weights is not compared": (
        PACKED,
        "stop = job.size * (share + 1) // n",
        "stop = job.size * (share + 1 - (1 < n == share + 1)) // n",
        LAYER,
    ),
    "engine: the BLAS step's chunk": (
        JOB,
        "q.gate_slots = max(1, q.T) if save else job.chunk",
        "q.gate_slots = max(1, q.T) if save else 1",
        LSTM,
    ),
    # -- the BLAS step
    "blas: bias is not added": (BLAS_GATES, "a[j] += b[j]", "pass", LSTM),
    "blas: c without the forget gate": (
        BLAS_GATES,
        "f[j] * c_prev[j] + i[j] * g[j]",
        "c_prev[j] + i[j] * g[j]",
        LSTM,
    ),
    "blas: dw_hh with h[t]": (
        BLAS_STEP,
        "h_slot(tag, q, q.reverse)",
        "h_slot(tag, q, 1 - q.reverse)",
        LSTM,
    ),
    "blas: dy is assigned, not added": (
        BLAS_STEP,
        "dh[r * P + j] += dy[j]",
        "dh[r * P + j] = dy[j]",
        LSTM,
    ),
    "blas: transposed product": (
        BLAS,
        "cdef char op_a = c'T' if trans_a else c'N'",
        "cdef char op_a = c'N' if trans_a else c'T'",
        LSTM,
    ),
    # -- time in pieces, episodes
    "engine: cells before a reset in a tape that others read": (
        ENGINE,
        "tape._c.copy() if keep and tape.resets is not None else tape._c",
        "tape._c",
        "tests/test_processes.py",
    ),
    "loops: a cell's gradient passes a reset": (
        LOOPS,
        "    memset(<real *>q.dc + r * q.U * q.L + at, 0, n * sizeof(real))\n",
        "",
        SEGMENTS,
    ),
    "loops: the cell before a reset is lost": (
        LOOPS,
        "memcpy(c, <real *>job.c_kept + k * c_row + at, n * sizeof(real))",
        "memset(c, 0, n * sizeof(real))",
        SEGMENTS,
    ),
}
