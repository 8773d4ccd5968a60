# SPDX-License-Identifier: MIT
"""What the engine uses of csrc/: the headers there say what it means."""

from ._gates cimport fl_squash

cdef extern from "lstm.h":
    enum: FL_PEEPHOLE_I, FL_PEEPHOLE_F, FL_PEEPHOLE_O

    ctypedef struct fl_lstm:
        Py_ssize_t T, B, I, H, P, U, L
        bint reverse, save, walk
        const Py_ssize_t *active
        const void *x
        const void *w_ih
        const void *w_hh
        const void *b
        const void *w_proj
        const void *h0
        const void *c0
        int peepholes, coupled
        double cell_clip
        const void *w_peephole
        void *gemm
        const void *panels
        const void *b_panel
        const void *x_columns
        const void *h_columns
        const void *peephole_panel
        const void *m_panels
        const void *m_columns
        int variant
        void *y
        Py_ssize_t y_t, y_b
        void *h_n
        void *c_n
        void *h
        void *c
        void *gates
        void *m
        Py_ssize_t state_slots, gate_slots, m_slots, h_row
        const void *dy
        Py_ssize_t dy_t, dy_b
        void *dh
        void *dc
        bint add
        void *norms
        void *dx
        void *dw_ih
        void *dw_hh
        void *db
        void *dw_proj
        void *dw_peephole
        void *dh_all
        void *dm

ctypedef void (*fl_pack_panels)(
    Py_ssize_t H, Py_ssize_t I, Py_ssize_t P, const void *w_ih, const void *w_hh,
    void *panels, Py_ssize_t u0, Py_ssize_t u1) noexcept nogil
ctypedef void (*fl_pack_columns)(
    Py_ssize_t H, Py_ssize_t K, const void *w, void *columns, Py_ssize_t v0, Py_ssize_t v1
) noexcept nogil
ctypedef void (*fl_pack_bias)(Py_ssize_t H, const void *b, void *panel) noexcept nogil
ctypedef void (*fl_pack_projection)(
    Py_ssize_t H, Py_ssize_t P, const void *w, void *packed) noexcept nogil
ctypedef void (*fl_project)(
    const fl_lstm *q, Py_ssize_t t0, Py_ssize_t t1, Py_ssize_t b0, Py_ssize_t b1,
    Py_ssize_t u0, Py_ssize_t u1) noexcept nogil
ctypedef void (*fl_step_forward)(
    const fl_lstm *q, Py_ssize_t t, int fused, Py_ssize_t b0, Py_ssize_t b1,
    Py_ssize_t u0, Py_ssize_t u1) noexcept nogil
ctypedef void (*fl_step_backward)(
    const fl_lstm *q, Py_ssize_t t_from, Py_ssize_t t, Py_ssize_t b0, Py_ssize_t b1,
    Py_ssize_t v0, Py_ssize_t v1) noexcept nogil
ctypedef void (*fl_input_gradient)(const fl_lstm *q, Py_ssize_t r0, Py_ssize_t r1) noexcept nogil
ctypedef void (*fl_weight_gradient)(
    const fl_lstm *q, Py_ssize_t u0, Py_ssize_t u1, Py_ssize_t begin, Py_ssize_t end,
    void *scratch) noexcept nogil
ctypedef void (*fl_peephole_gradient)(
    const fl_lstm *q, int gates, Py_ssize_t u0, Py_ssize_t u1) noexcept nogil
ctypedef Py_ssize_t (*fl_gradient_scratch)(
    const fl_lstm *q, Py_ssize_t u0, Py_ssize_t u1) noexcept nogil
ctypedef void (*fl_work)(void *arg, int thread, int n) noexcept nogil

cdef extern from "fastlstm.h":
    ctypedef struct fl_kernels:
        const char *isa
        Py_ssize_t *lanes
        Py_ssize_t tile_rows
        fl_squash *sigmoid
        fl_squash *tanh
        fl_pack_panels *pack_panels
        fl_pack_columns *pack_columns
        fl_pack_bias *pack_bias
        fl_pack_projection *pack_projection
        fl_pack_projection *pack_projection_columns
        fl_pack_bias *pack_peepholes
        fl_project *project
        fl_step_forward *step_forward
        fl_step_backward *step_backward
        fl_input_gradient *input_gradient
        fl_weight_gradient *weight_gradient
        fl_peephole_gradient *peephole_gradient
        fl_gradient_scratch *gradient_scratch

    const fl_kernels *fl_kernels_for(const char *isa) noexcept nogil
    const char *fl_best_isa() noexcept nogil
    const char *const *fl_isas() noexcept nogil

cdef extern from "clock.h":
    long long fl_now_ns() noexcept nogil

cdef extern from "denormals.h":
    unsigned long long fl_flush_denormals() noexcept nogil
    void fl_restore_denormals(unsigned long long before) noexcept nogil

cdef extern from "pool.h":
    enum:
        FL_MAX_THREADS
    void fl_team_share(int n, fl_work work, void *arg) noexcept nogil
    void fl_team_together(int n, fl_work work, void *arg) noexcept nogil
    int fl_team_worth(int n, long long alone_ns) noexcept nogil
    int fl_team_barrier(int n, long long slack_ns) noexcept nogil
    void fl_raise_flag(int *flag) noexcept nogil
    int fl_flag_is_up(const int *flag) noexcept nogil
    Py_ssize_t fl_mark(const Py_ssize_t *mark) noexcept nogil
    void fl_bring_mark(Py_ssize_t *mark, Py_ssize_t step) noexcept nogil
