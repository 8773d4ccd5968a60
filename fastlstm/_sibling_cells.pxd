# SPDX-License-Identifier: MIT
"""One step of a GRU, an RNN and an sLSTM, forward and backward: a product by BLAS, then the rows.

The lines come in the order of reference_gru.py, reference_rnn.py and reference_slstm.py, where they
are explained. The backward step overwrites the gates by the gradients of what they were made
from. A row of the tape:

    GRU    r[H] z[H] n[H] inner[H]       inner: U_n h + b'_n with reset_after, else r h
    RNN    h[H]
    sLSTM  i'[H] f'[H] z[H] o[H] open[H]      open: sigmoid(-f~), the slope of logsigmoid
"""

from libc.math cimport exp, expf, fabs, log1p, log1pf
from libc.string cimport memcpy, memset

from ._activations cimport Activation, activate, derive
from ._blas cimport gemm

ctypedef fused real:
    float
    double

cdef enum: STATES = 4  # at most


cdef enum Kind:
    GRU, RNN, SLSTM


cdef struct Sibling:  # one call
    int kind
    bint is_f64, reset_after, floor, reverse
    Py_ssize_t T, B, I, H
    Py_ssize_t G            # rows of w_ih
    Py_ssize_t K            # numbers in a row of the tape
    Py_ssize_t N            # heads
    int S                   # states
    const Py_ssize_t *active  # (T) rows that have a step t
    const unsigned char *mask   # (T,B) 0: the row stands still; NULL: none does
    const unsigned char *reset  # (T,B) 1: the step starts from zeros; NULL: none does
    const void *x           # (T,B,I)
    const void *w_ih        # (G,I)
    const void *w_hh        # (G,H), sLSTM (N,4,D,D)
    const void *b           # GRU (4H): r z n inner; RNN (H); sLSTM (4H); or NULL
    void *gemm
    Activation gate
    Activation candidate
    double clip             # of what the activations see; 0: none
    const void *initial[STATES]  # (B,H) or NULL: zeros
    void *final[STATES]     # (B,H)
    void *y
    Py_ssize_t y_t, y_b     # strides, in elements
    void *states[STATES]    # (slots,B,H)
    Py_ssize_t slots, gate_slots
    void *gates             # (gate_slots,B,K)
    unsigned char *clipped  # (gate_slots,B,G) or NULL
    void *start             # (S,B,H) scratch: what a step with a reset starts from
    void *u                 # (B,G) scratch: the recurrent product, or what comes back through it
    void *row               # (2H) scratch

    const void *dy          # (T,B,H) or NULL
    Py_ssize_t dy_t, dy_b
    void *d[STATES]         # (B,H) in: of the final states; out: of the initial ones
    void *dx
    void *dw_ih
    void *dw_hh
    void *db                # (K') sums of the columns of the tape, or NULL
    long long looked        # when Ctrl-C was last looked for (`fl_now_ns`)
    bint interrupted


cdef inline bint moves(const Sibling *q, Py_ssize_t t, Py_ssize_t r) noexcept nogil:
    """Whether row r takes step t, of those that have it."""
    return q.mask == NULL or q.mask[t * q.B + r] != 0


cdef inline unsigned char *clipped_of(const Sibling *q, Py_ssize_t t, Py_ssize_t r) noexcept nogil:
    return NULL if q.clipped == NULL else q.clipped + (t % q.gate_slots * q.B + r) * q.G


cdef inline void squash(
    const Sibling *q, const Activation *f, Py_ssize_t n, real *a, unsigned char *clipped
) noexcept nogil:
    """a := f(a), n numbers, clipped first."""
    cdef Py_ssize_t j
    cdef real limit = <real>q.clip
    if clipped != NULL:
        for j in range(n):
            clipped[j] = a[j] >= limit or a[j] <= -limit
            a[j] = limit if a[j] > limit else -limit if a[j] < -limit else a[j]
    activate(f, n, a, a)


cdef inline void unsquash(
    const Activation *f, Py_ssize_t n, const real *y, real *d, unsigned char *clipped
) noexcept nogil:
    """d := the gradient of what `squash` saw from that of its values y."""
    cdef Py_ssize_t j
    derive(f, n, y, d)
    if clipped != NULL:
        for j in range(n):
            if clipped[j]:
                d[j] = 0


# -- RNN ---------------------------------------------------------------------------------------

cdef inline void rnn_forward(
    const real *tag, const Sibling *q, Py_ssize_t t, real **start, real **end, real *gates
) noexcept nogil:
    cdef Py_ssize_t H = q.H, n = q.active[t], r, j
    cdef const real *b = <const real *>q.b
    cdef real *a
    gemm(q.gemm, False, True, n, H, H, start[0], H, <const real *>q.w_hh, H, <real>1, gates, H)
    for r in range(n):
        a = gates + r * H
        if b != NULL:
            for j in range(H):
                a[j] += b[j]
        squash(q, &q.candidate, H, a, clipped_of(q, t, r))
        memcpy(end[0] + r * H, a, H * sizeof(real))


cdef inline void rnn_backward(
    const real *tag, const Sibling *q, Py_ssize_t t, real **start, real **end, real *gates
) noexcept nogil:
    cdef Py_ssize_t H = q.H, n = q.active[t], r
    cdef real *dh = <real *>q.d[0]
    cdef real *a
    for r in range(n):
        a = gates + r * H
        if not moves(q, t, r):
            memset(a, 0, H * sizeof(real))
            continue
        unsquash(&q.candidate, H, a, dh + r * H, clipped_of(q, t, r))
        memcpy(a, dh + r * H, H * sizeof(real))
        memset(dh + r * H, 0, H * sizeof(real))
    gemm(q.gemm, False, False, n, H, H, gates, H, <const real *>q.w_hh, H, <real>1, dh, H)


# -- GRU ---------------------------------------------------------------------------------------

cdef inline void gru_forward(
    const real *tag, const Sibling *q, Py_ssize_t t, real **start, real **end, real *gates
) noexcept nogil:
    cdef Py_ssize_t H = q.H, G = 3 * q.H, n = q.active[t], r, j
    cdef Py_ssize_t products = G if q.reset_after else 2 * H
    cdef real *u = <real *>q.u
    cdef const real *w_hh = <const real *>q.w_hh
    cdef const real *h
    cdef real *a
    gemm(q.gemm, False, True, n, products, H, start[0], H, w_hh, H, <real>0, u, G)
    for r in range(n):
        a, h = gates + r * 4 * H, start[0] + r * H
        gru_gates(q, a, u + r * G, clipped_of(q, t, r))
        if q.reset_after:
            gru_output(q, a, h, end[0] + r * H, clipped_of(q, t, r))
        else:
            for j in range(H):
                a[3 * H + j] = a[j] * h[j]
    if q.reset_after:
        return
    gemm(q.gemm, False, True, n, H, H, gates + 3 * H, 4 * H, w_hh + 2 * H * H, H, <real>1,
         gates + 2 * H, 4 * H)
    for r in range(n):
        gru_output(q, gates + r * 4 * H, start[0] + r * H, end[0] + r * H, clipped_of(q, t, r))


cdef inline void gru_gates(
    const Sibling *q, real *a, const real *u, unsigned char *clipped
) noexcept nogil:
    """r and z; with reset_after also inner, and what n sees."""
    cdef Py_ssize_t H = q.H, j
    cdef const real *b = <const real *>q.b
    for j in range(2 * H):
        a[j] += u[j]
    if b != NULL:
        for j in range(3 * H):
            a[j] += b[j]
    squash(q, &q.gate, 2 * H, a, clipped)
    if not q.reset_after:
        return
    cdef real *inner = a + 3 * H
    if b == NULL:
        memcpy(inner, u + 2 * H, H * sizeof(real))
    else:
        for j in range(H):
            inner[j] = u[2 * H + j] + b[3 * H + j]
    for j in range(H):
        a[2 * H + j] += a[j] * inner[j]


cdef inline void gru_output(
    const Sibling *q, real *a, const real *h, real *h_next, unsigned char *clipped
) noexcept nogil:
    """n, and h[t] = (1 - z) n + z h[t-1]."""
    cdef Py_ssize_t H = q.H, j
    cdef const real *z = a + H
    cdef real *n = a + 2 * H
    squash(q, &q.candidate, H, n, NULL if clipped == NULL else clipped + 2 * H)
    for j in range(H):
        h_next[j] = (1 - z[j]) * n[j] + z[j] * h[j]


cdef inline void gru_backward(
    const real *tag, const Sibling *q, Py_ssize_t t, real **start, real **end, real *gates
) noexcept nogil:
    """In the tape: the gradients of what r, z, n see, and with reset_after that of inner."""
    cdef Py_ssize_t H = q.H, G = 3 * q.H, n = q.active[t], r
    cdef real *du = <real *>q.u
    cdef const real *w_hh = <const real *>q.w_hh
    cdef real *dh = <real *>q.d[0]
    cdef real *dn = <real *>q.row
    cdef unsigned char *clipped
    cdef real *a
    for r in range(n):
        a = gates + r * 4 * H
        if moves(q, t, r):
            gru_output_backward(q, a, start[0] + r * H, dh + r * H, dn, clipped_of(q, t, r))
        else:
            memset(a, 0, 4 * H * sizeof(real))
        memcpy(du + r * G + 2 * H, a + 2 * H, H * sizeof(real))
    if not q.reset_after:  # n saw U_n (r h): du of r and z is scratch until they are known
        gemm(q.gemm, False, False, n, H, H, gates + 2 * H, 4 * H, w_hh + 2 * H * H, H, <real>0, du,
             G)
    for r in range(n):
        a, clipped = gates + r * 4 * H, clipped_of(q, t, r)
        if not moves(q, t, r):
            memset(du + r * G, 0, G * sizeof(real))
            continue
        gru_reset_backward(q, a, start[0] + r * H, dh + r * H, du + r * G, clipped)
    gemm(q.gemm, False, False, n, H, G if q.reset_after else 2 * H, du, G, w_hh, H, <real>1, dh, H)


cdef inline void gru_output_backward(
    const Sibling *q, real *a, const real *h, real *dh, real *dn, unsigned char *clipped
) noexcept nogil:
    """The gradients of what n and z see, in their places; dh := z dh."""
    cdef Py_ssize_t H = q.H, j
    cdef real *z = a + H
    cdef real *n = a + 2 * H
    cdef real *dz = dn + H
    for j in range(H):
        dn[j] = dh[j] * (1 - z[j])
        dz[j] = dh[j] * (h[j] - n[j])
        dh[j] *= z[j]
    unsquash(&q.candidate, H, n, dn, NULL if clipped == NULL else clipped + 2 * H)
    unsquash(&q.gate, H, z, dz, NULL if clipped == NULL else clipped + H)
    memcpy(n, dn, H * sizeof(real))
    memcpy(z, dz, H * sizeof(real))


cdef inline void gru_reset_backward(
    const Sibling *q, real *a, const real *h, real *dh, real *du, unsigned char *clipped
) noexcept nogil:
    """The gradient of what r sees, in its place; du: that of W_hh h. dh grows."""
    cdef Py_ssize_t H = q.H, j
    cdef const real *da_n = a + 2 * H
    cdef real *inner = a + 3 * H
    cdef real *du_n = du + 2 * H
    if q.reset_after:  # a_n += r inner
        for j in range(H):
            du[j] = da_n[j] * inner[j]
            du_n[j] = da_n[j] * a[j]
        memcpy(inner, du_n, H * sizeof(real))
    else:  # inner = r h; du is its gradient
        for j in range(H):
            dh[j] += du[j] * a[j]
            du[j] *= h[j]
    unsquash(&q.gate, H, a, du, clipped)
    memcpy(a, du, H * sizeof(real))
    memcpy(du + H, a + H, H * sizeof(real))


# -- sLSTM -------------------------------------------------------------------------------------

cdef inline real exp_of(real x) noexcept nogil:
    if real is float:
        return expf(x)
    else:
        return exp(x)


cdef inline real log1p_of(real x) noexcept nogil:
    if real is float:
        return log1pf(x)
    else:
        return log1p(x)


cdef inline void slstm_forward(
    const real *tag, const Sibling *q, Py_ssize_t t, real **start, real **end, real *gates
) noexcept nogil:
    cdef Py_ssize_t H = q.H, D = q.H // q.N, n = q.active[t], r, k, g, j
    cdef real *u = <real *>q.u
    cdef const real *b = <const real *>q.b
    cdef real *a
    cdef real *u_k
    for k in range(q.N):  # u of a head: i~ f~ z~ o~ of its units
        gemm(q.gemm, False, True, n, 4 * D, D, start[0] + k * D, H,
             <const real *>q.w_hh + k * 4 * D * D, D, <real>0, u + k * 4 * D, 4 * H)
    for r in range(n):
        a = gates + r * 5 * H
        for k in range(q.N):
            for g in range(4):
                u_k = u + r * 4 * H + (4 * k + g) * D
                for j in range(D):
                    a[g * H + k * D + j] += u_k[j]
        if b != NULL:
            for j in range(4 * H):
                a[j] += b[j]
        slstm_cell(q, a, start[1] + r * H, start[2] + r * H, start[3] + r * H, end[0] + r * H,
                   end[1] + r * H, end[2] + r * H, end[3] + r * H)


cdef inline void slstm_cell(
    const Sibling *q, real *a, const real *c_prev, const real *n_prev, const real *m_prev,
    real *h, real *c, real *n, real *m,
) noexcept nogil:
    """One row; the states after may be those before."""
    cdef Py_ssize_t H = q.H, j
    cdef real *f = a + H
    cdef real *z = a + 2 * H
    cdef real *o = a + 3 * H
    cdef real *open_ = a + 4 * H
    cdef real e, p, i, f_, n_
    cdef bint past = False
    for j in range(H):
        past = past or n_prev[j] != 0
    q.candidate.tanh(z, z, H)
    q.candidate.sigmoid(o, o, H)
    for j in range(H):
        e = exp_of(-<real>fabs(f[j]))
        open_[j] = (<real>1 if f[j] < 0 else e) / (1 + e)
        if not past:
            m[j], i, f_ = a[j], 1, 0
        else:
            p = (f[j] if f[j] < 0 else <real>0) - log1p_of(e) + m_prev[j]
            i = a[j]
            if p >= i:
                m[j], i, f_ = p, exp_of(i - p), 1
            else:
                m[j], f_, i = i, exp_of(p - i), (<real>1 if p < i else p - i)  # NaN in, NaN out
        n_ = f_ * n_prev[j] + i
        c[j] = f_ * c_prev[j] + i * z[j]
        n[j] = <real>1 if q.floor and n_ < 1 else n_
        h[j] = o[j] * c[j] / n[j]
        a[j], f[j] = i, f_


cdef inline void slstm_backward(
    const real *tag, const Sibling *q, Py_ssize_t t, real **start, real **end, real *gates
) noexcept nogil:
    cdef Py_ssize_t H = q.H, D = q.H // q.N, n = q.active[t], r, k, g
    cdef real *u = <real *>q.u
    cdef real *dh = <real *>q.d[0]
    cdef real *a
    for r in range(n):
        a = gates + r * 5 * H
        if moves(q, t, r):
            slstm_cell_backward(q, a, start[1] + r * H, start[2] + r * H, end[1] + r * H,
                                end[2] + r * H, dh + r * H, <real *>q.d[1] + r * H,
                                <real *>q.d[2] + r * H, <real *>q.d[3] + r * H)
        else:
            memset(a, 0, 4 * H * sizeof(real))
        for k in range(q.N):
            for g in range(4):
                memcpy(u + r * 4 * H + (4 * k + g) * D, a + g * H + k * D, D * sizeof(real))
    for k in range(q.N):
        gemm(q.gemm, False, False, n, D, 4 * D, u + k * 4 * D, 4 * H,
             <const real *>q.w_hh + k * 4 * D * D, D, <real>1, dh + k * D, H)


cdef inline void slstm_cell_backward(
    const Sibling *q, real *a, const real *c_prev, const real *n_prev, const real *c,
    const real *n, real *dh, real *dc, real *dn, real *dm,
) noexcept nogil:
    """One row: the gradients of i~ f~ z~ o~ in place of i' f' z o; dh := 0."""
    cdef Py_ssize_t H = q.H, j
    cdef real i, f, z, o, dc_, dn_, di, df, dm_
    for j in range(H):
        i, f, z, o = a[j], a[H + j], a[2 * H + j], a[3 * H + j]
        dc_ = dc[j] + dh[j] * o / n[j]  # h = o c / n
        dn_ = dn[j] - dh[j] * o * c[j] / (n[j] * n[j])
        if q.floor and not f * n_prev[j] + i > 1:
            dn_ = 0
        a[3 * H + j] = dh[j] * c[j] / n[j] * o * (1 - o)
        a[2 * H + j] = dc_ * i * (1 - z * z)  # c = f c[t-1] + i z;  n = f n[t-1] + i
        df = (dc_ * c_prev[j] + dn_ * n_prev[j]) * f
        di = (dc_ * z + dn_) * i
        dm_ = dm[j] - df - di
        if f == 1:  # m = max(p, i~) was p
            df += dm_
        else:
            di += dm_
        a[j], a[H + j] = di, df * a[4 * H + j]
        dc[j], dn[j], dm[j], dh[j] = dc_ * f, dn_ * f, df, 0
