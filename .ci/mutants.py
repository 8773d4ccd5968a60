# SPDX-License-Identifier: MIT
"""The faults that mutate.py applies, one at a time; every one must be found by a test.

name: (file, text, what it becomes, tests). The text stands in the file; its first occurrence is
replaced. The reference has its own list, in tests/test_oracle_bites.py.
"""

LSTM = "tests/test_lstm.py"
LAYER = "tests/test_layer.py tests/test_layer_value.py"
SAME_BITS = "tests/test_determinism.py"
STREAM = "tests/test_stream.py"
SEGMENTS = "tests/test_segments.py"
TEAM, STEPS = "csrc/test_pool.c ", "csrc/test_steps.c"
GATES, STEP, GRADIENTS = "csrc/gates.inc.h", "csrc/step.inc.h", "csrc/gradients.inc.h"
GEMM, PACK, POOL = "csrc/gemm.inc.h", "csrc/pack.inc.h", "csrc/pool.c"
LOOPS, ENGINE = "fastlstm/_loops.pxd", "fastlstm/_engine.pyx"
JOB, PACKED, ROWS = "fastlstm/_job.pyx", "fastlstm/_packed.pyx", "fastlstm/_rows.pyx"
BLAS, BLAS_STEP = "fastlstm/_blas.pyx", "fastlstm/_blas_step.pxd"
BLAS_GATES = "fastlstm/_gates.pxd"

MUTANTS = {
    # -- SIMD gates
    "simd: sigmoid for tanh in g": (
        GATES,
        "EACH x[k] = gate[k][2];\n    FN(v_tanh)",
        "EACH x[k] = gate[k][2];\n    FN(v_sigmoid)",
        LSTM,
    ),
    "simd: i and f swapped": (
        GATES,
        "V_FMA(gate[k][1], c[k], V_MUL(gate[k][0], gate[k][2]))",
        "V_FMA(gate[k][0], c[k], V_MUL(gate[k][1], gate[k][2]))",
        LSTM,
    ),
    "simd: h is not squashed": (
        GATES,
        "V_MUL(gate[k][3], x[k]);",
        "V_MUL(gate[k][3], c[k]);",
        LSTM,
    ),
    "simd: dc of the later step lost": (
        GATES,
        "V_FMA(dm_o, V_FNMA(tanh_c, tanh_c, one), *dc)",
        "V_MUL(dm_o, V_FNMA(tanh_c, tanh_c, one))",
        LSTM,
    ),
    "simd: c for c_prev in df": (
        GATES,
        "V_MUL(V_MUL(V_MUL(dc_t, c_prev), f)",
        "V_MUL(V_MUL(V_MUL(dc_t, c), f)",
        LSTM,
    ),
    "simd: wrong sign of do": (
        GATES,
        "V_MUL(V_MUL(dm_o, tanh_c), V_SUB(one, o))",
        "V_MUL(V_MUL(dm_o, tanh_c), V_SUB(o, one))",
        LSTM,
    ),
    "simd: dc is not carried through f": (GATES, "*dc = V_MUL(dc_t, f);", "*dc = dc_t;", LSTM),
    "simd: derivative of the candidate": (
        GATES,
        "V_MUL(V_MUL(dc_t, i), V_FNMA(g, g, one))",
        "V_MUL(V_MUL(dc_t, i), V_FNMA(g, one, one))",
        LSTM,
    ),
    # -- SIMD steps
    "simd: h[t] for h[t-1]": (
        STEP,
        "const REAL *h_prev = H_SLOT(q, t + q->reverse);",
        "const REAL *h_prev = H_SLOT(q, t + 1 - q->reverse);",
        LSTM,
    ),
    "simd: c_prev without reverse": (
        STEP,
        "const REAL *c_prev = C_SLOT(q, t + q->reverse)",
        "const REAL *c_prev = C_SLOT(q, t)",
        LSTM,
    ),
    "simd: y of the step before": (
        STEP,
        "REAL *y = (REAL *)q->y + t * q->y_t",
        "REAL *y = (REAL *)q->y + (t ? t - 1 : t) * q->y_t",
        LSTM,
    ),
    "simd: bias left out of the projection": (
        STEP,
        "panel + PANEL(q), bias, GATES(q, t)",
        "panel + PANEL(q), NULL, GATES(q, t)",
        LSTM,
    ),
    "simd: ragged rows projected as whole": (
        STEP,
        "b0 == 0 && b1 == q->B && q->active[t1 - 1] == q->B",
        "b0 == 0 && b1 == q->B",
        LSTM,
    ),
    "simd: the last lane of y": (
        STEP,
        "V_STORE_PART(y + m * q->y_b, units, h[m]);",
        "V_STORE_PART(y + m * q->y_b, units - 1, h[m]);",
        LSTM,
    ),
    "simd: a slice of k twice": (STEP, "panel + (k0 + x_n) * GROUP,", "panel + x_n * GROUP,", LSTM),
    "simd: x beside h, not before": (STEP, "FL_MAX(0, k0 - I)", "k0", "test_steps.c"),
    "simd: gates are not saved": (STEP, "if (q->save)", "if (q->save && t)", LSTM),
    # -- SIMD gradients and packing
    "simd: dx of few inputs forgets a vector": (
        GRADIENTS,
        "V_ADD(V_ADD(sum[0], sum[1]), V_ADD(sum[2], sum[3]))",
        "V_ADD(V_ADD(sum[0], sum[1]), sum[2])",
        LSTM,
    ),
    "simd: db of the last block only": (
        GRADIENTS,
        "return n0 > 0 || q->add ?",
        "return q->add ?",
        "tests/test_lstm.py",
    ),
    "simd: h[t] for h[t-1] in dw_hh": (
        GRADIENTS,
        "(q->reverse * q->B + order.first) * q->h_row",
        "((1 - q->reverse) * q->B + order.first) * q->h_row",
        LSTM,
    ),
    "simd: the sums start again in each block": (
        GRADIENTS,
        "FN(product_transposed)(I, n, x_rows, slice, n0 == 0 && !q->add",
        "FN(product_transposed)(I, n, x_rows, slice, n0 == begin && !q->add",
        STEPS,
    ),
    "simd: bias in another gate order": (
        PACK,
        "b[g * H + u * VL + l]",
        "b[(g ^ 1) * H + u * VL + l]",
        LSTM,
    ),
    "simd: tiles overlap": (
        GEMM,
        "i * (n / tiles) + FL_MIN(i, n % tiles)",
        "i * (n / tiles)",
        LSTM,
    ),
    "simd: fill_tile forgets the bias": (
        GEMM,
        "const V value = row ? V_LOAD(row + v * VL)",
        "const V value = row && v ? V_LOAD(row + v * VL)",
        LSTM,
    ),
    "simd: the tail of a row is whole": (
        GEMM,
        "const ptrdiff_t nv = (N + VL - 1) / VL, tail = N - (nv - 1) * VL",
        "const ptrdiff_t nv = (N + VL - 1) / VL, tail = FL_MAX(N - (nv - 1) * VL - 1, 1)",
        LSTM,
    ),
    # -- the team
    "team: a share is skipped": (
        POOL,
        "for (; share < team.n; share =",
        "for (share += share == 1; share < team.n; share =",
        TEAM + SAME_BITS,
    ),
    "team: the barrier does not wait": (
        POOL,
        "if (n == 1) return 0;",
        "if (n >= 1) return 0;",
        TEAM + SAME_BITS,
    ),
    "team: a fork keeps its dead members": (
        POOL,
        "team.members = 0;",
        "",
        TEAM + "tests/test_processes.py",
    ),
    "team: denormals stay flushed": (
        POOL,
        "fl_restore_denormals(before);",
        "(void)before;",
        "tests/test_numbers.py tests/test_import.py",
    ),
    "team: denormals are not flushed": (
        POOL,
        "fl_flush_denormals();",
        "0;",
        "tests/test_numbers.py",
    ),
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
        "if not same_bytes(w, kept):",
        "if name != 'b' and not same_bytes(w, kept):",
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
    # -- layers, checks, streams
    "layer: the mask of dropout is not applied backward": (
        "fastlstm/_stack.pyx",
        "dy = dy * masks[layer]  # y *= mask",
        "pass",
        LAYER,
    ),
    "layer: the other direction is not reversed": (
        "fastlstm/_stack.pyx",
        "ends[k], lengths, d == 1, save)",
        "ends[k], lengths, False, save)",
        LAYER,
    ),
    "layer: dx of one direction only": (
        "fastlstm/_stack.pyx",
        "dx = dx_d if dx is None else np.add(dx, dx_d, out=dx)",
        "dx = dx_d",
        LAYER,
    ),
    "layer: directions change places": (
        "fastlstm/_stack.pyx",
        "y_d = y if D == 1 else y[:, :, d * P:(d + 1) * P]",
        "y_d = y if D == 1 else y[:, :, (1 - d) * P:(2 - d) * P]",
        LAYER,
    ),
    "stream: parity is not kept": (
        "fastlstm/_stream.pyx",
        "self.parity = not self.parity",
        "pass",
        STREAM,
    ),
    "stream: out may overlap x_t": (
        "fastlstm/_stream.pyx",
        'raise ValueError("out must not overlap x_t, whose memory it shares")',
        "pass",
        STREAM,
    ),
    "stream: weights are not copied": (
        "fastlstm/_stream.pyx",
        "Weights(arrays, lstm.spec, True)",
        "Weights(arrays, lstm.spec, False)",
        STREAM,
    ),
    "checks: dtypes may differ": (
        "fastlstm/checks.py",
        "if a is not None and a.dtype != value.dtype:",
        "if False:",
        "tests/test_checks.py",
    ),
    "checks: out may overlap": (
        "fastlstm/checks.py",
        "if a is not None and _overlap(out, a):",
        "if False:",
        "tests/test_checks.py",
    ),
    "checks: a length may be T + 1": (
        "fastlstm/checks.py",
        "(lengths < 0) | (lengths > T)",
        "(lengths < 0) | (lengths > T + 1)",
        "tests/test_checks.py",
    ),
    "checks: misaligned arrays pass": (
        "fastlstm/checks.py",
        "if value.dtype != native or not value.flags.aligned:",
        "if value.dtype != native:",
        "tests/test_inputs.py",
    ),
    "layer: misaligned x passes": (
        "fastlstm/recurrent.py",
        " or not x.flags.aligned:",
        ":",
        "tests/test_any_memory.py",
    ),
    "checks: an exporter's error has no name": (
        "fastlstm/checks.py",
        'raise TypeError(f"{name} cannot be taken through DLPack: {fault}") from fault',
        "raise",
        "tests/test_any_memory.py",
    ),
    "checks: a shape is not looked at": (
        "fastlstm/checks.py",
        "    if value.shape != expected:",
        "    if value.size != np.prod(expected):",
        "tests/test_checks.py",
    ),
    "files: the temporary file is not flushed": (
        "fastlstm/tensorfile.py",
        "            os.fsync(file.fileno())\n",
        "",
        "tests/test_atomic_save.py",
    ),
    "files: written in place": (
        "fastlstm/tensorfile.py",
        "os.replace(temporary, target)",
        "open(target, 'wb').write(open(temporary, 'rb').read()); os.unlink(temporary)",
        "tests/test_atomic_save.py",
    ),
    # -- time in pieces, episodes
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
    "simd: sums of later steps are lost": (
        GRADIENTS,
        "n0 > 0 || q->add ? V_LOAD_PART",
        "n0 > 0 ? V_LOAD_PART",
        SEGMENTS,
    ),
    "simd: sums run against the loop": (
        GRADIENTS,
        "if (q->reverse) return",
        "if (!q->reverse) return",
        SEGMENTS,
    ),
    "segments: every window has all of dy": (
        "fastlstm/segments.py",
        "dy_w[b0 - t0 : b1 - t0] = dy[b0:b1]",
        "dy_w[:] = dy[t0:t1]",
        SEGMENTS,
    ),
}
