# SPDX-License-Identifier: MIT
"""Faults of csrc/: the kernels and the team."""

from .tests import LSTM, SAME_BITS, SEGMENTS

TEAM = "csrc/test_pool.c "
STEPS = "csrc/test_steps.c"
GATES = "csrc/gates.inc.h"
STEP = "csrc/step.inc.h"
SUMS = "csrc/sums.inc.h"
GRADIENTS = "csrc/gradients.inc.h"
GEMM = "csrc/gemm.inc.h"
PACK = "csrc/pack.inc.h"
POOL = "csrc/pool.c"

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
        ".h_prev = H_SLOT(q, t + q->reverse),",
        ".h_prev = H_SLOT(q, t + 1 - q->reverse),",
        LSTM,
    ),
    "simd: c_prev without reverse": (
        STEP,
        ".c_prev = C_SLOT(q, t + q->reverse),",
        ".c_prev = C_SLOT(q, t),",
        LSTM,
    ),
    "simd: y of the step before": (
        STEP,
        ".y = (REAL *)q->y + t * q->y_t",
        ".y = (REAL *)q->y + (t ? t - 1 : t) * q->y_t",
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
        "V_STORE_PART(y + m * y_step, units, h[m]);",
        "V_STORE_PART(y + m * y_step, units - 1, h[m]);",
        LSTM,
    ),
    "simd: a slice of k twice": (STEP, "panel + (k0 + x_n) * GROUP,", "panel + x_n * GROUP,", LSTM),
    "simd: x beside h, not before": (STEP, "FL_MAX(0, k0 - I)", "k0", STEPS),
    "simd: gates are not saved": (STEP, "if (q->save)", "if (q->save && t)", LSTM),
    # -- SIMD gradients and packing
    "simd: dx of few inputs forgets a vector": (
        GRADIENTS,
        "V_ADD(V_ADD(sum[0], sum[1]), V_ADD(sum[2], sum[3]))",
        "V_ADD(V_ADD(sum[0], sum[1]), sum[2])",
        LSTM,
    ),
    "simd: dx of few inputs in another order without packing": (
        GRADIENTS,
        "if (q->I <= FEW_INPUTS) { /*",
        "if (q->I <= FEW_INPUTS && q->panels) { /*",
        SAME_BITS,
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
        "i * tiles.rows + FL_MIN(i, tiles.larger)",
        "i * tiles.rows",
        LSTM,
    ),
    "simd: outer products of more than eight rows begin anew": (
        GEMM,
        "p_row, k == 0,",
        "p_row, 1,",
        STEPS,
    ),
    "simd: the last row of a full tile": (GEMM, "BODY(3, nv)", "BODY(2, nv)", LSTM),
    "simd: one row: peepholes of the first panel for all": (
        STEP,
        "along ? 3 * VL : 0",
        "0",
        STEPS,
    ),
    "simd: one row: the last panel is whole, as the first": (
        STEP,
        "q->H - (along ? u + m : u) * VL",
        "q->H - u * VL",
        STEPS,
    ),
    "simd: one row: the panels' states are a row apart": (
        STEP,
        "c_step = along ? VL : c_row",
        "c_step = c_row",
        LSTM,
    ),
    "simd: one row: a group of columns is as long as a panel": (
        SUMS,
        "apart = q->U * GROUP * GROUP",
        "apart = PANEL(q)",
        STEPS,
    ),
    "simd: one row: the sum over the last panel's lanes": (
        SUMS,
        "lanes = q->H % VL;",
        "lanes = 1;",
        STEPS,
    ),
    "simd: the last vector of a full tile": (
        GEMM,
        "default: FL_ROWS(BODY, rows, TILE_VECTORS)",
        "default: FL_ROWS(BODY, rows, 3)",
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
    "simd: what is left of narrow tiles begins with the first row": (
        GEMM,
        "a += done * a_row, c += done * c_row, M -= done;",
        "M -= done;",
        LSTM,
    ),
    "simd: packed rows run over what lies behind": (
        PACK,
        "K + 1 - (VL + mr - 1) / mr",
        "K",
        LSTM,
    ),
    "simd: a row's number for the whole tile": (
        GEMM,
        "rows[m] = V_SET1(a[m * a_row]);",
        "rows[m] = V_SET1(a[0]);",
        LSTM,
    ),
    "simd: a gate's weights as they are, for two": (
        PACK,
        "w + g * gate_step + j * w_row + k,",
        "w + j * w_row + k,",
        LSTM,
    ),
    "simd: a part of a block loses a column": (
        PACK,
        "V_LOAD_PART(from + r * from_row, m))",
        "V_LOAD_PART(from + r * from_row, FL_MAX(m - 1, 1)))",
        LSTM,
    ),
    # -- the team
    "team: brief work wakes the others": (
        POOL,
        "return follows || atomic_load(&team.awake) >= n - 1 ? n : 1;",
        "return n;",
        TEAM,
    ),
    "team: brief work never wakes them": (
        POOL,
        "return follows || atomic_load(&team.awake) >= n - 1 ? n : 1;",
        "return atomic_load(&team.awake) >= n - 1 ? n : 1;",
        TEAM,
    ),
    "team: work that takes long may not end late": (
        POOL,
        "CONGESTED_NS + slack_ns",
        "CONGESTED_NS + 0 * slack_ns",
        TEAM,
    ),
    "team: a sleeper is kept off the caller's processor for ever": (
        POOL,
        "if (m->kept_off) pthread_setaffinity_np(pthread_self()",
        "if (0) pthread_setaffinity_np(pthread_self()",
        TEAM,
    ),
    "team: kept off twice, a sleeper forgets where it may run": (
        POOL,
        "m->kept_off || !pthread_getaffinity_np(",
        "!pthread_getaffinity_np(",
        TEAM,
    ),
    "team: a recovery never grows": (
        POOL,
        "doubled + (doubled < RECOVERIES)",
        "doubled",
        TEAM,
    ),
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
        TEAM,
    ),
    # -- time in pieces, episodes
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
}
