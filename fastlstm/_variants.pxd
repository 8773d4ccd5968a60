# SPDX-License-Identifier: MIT
"""The gate math of the variants that a `Spec` can name, one row of the batch at a time.

It runs in the BLAS step, in the place of `_gates`, which has the default cell alone. The lines
come in the order of reference.py, where they are explained; every option is data here: a pointer
that is NULL, a number, an activation. A row of gates is i[H] f[H] g[H] o[H].
"""

from libc.math cimport fabs, sqrt
from libc.string cimport memcpy, memset

from ._activations cimport Activation, activate, derive
from ._csrc cimport FL_PEEPHOLE_F, FL_PEEPHOLE_I, FL_PEEPHOLE_O, fl_lstm
from ._gates cimport fl_squash

ctypedef fused real:
    float
    double

cdef enum:
    ROW_SCRATCH = 6  # times H numbers: what `variant_backward` works in


cdef struct Variant:  # what only the BLAS step serves, beside the fields of fl_lstm
    bint plain          # nothing of it, and no norms of the steps: the default cell
    bint live[4]        # which of i f g o are computed from their rows of the weights
    fl_squash sigmoid
    fl_squash tanh
    Activation gate
    Activation candidate
    Activation output
    double clip         # of the arguments of i f g o; 0: none
    const void *w_fgr   # (3H,3H) or NULL
    const void *ln_x    # (4H) or NULL: no layer norm
    const void *ln_h    # (4H)
    const void *ln_c    # (2,H)
    bint zoned_h        # zoneout: h[t] is a mixture with h[t-1]
    bint zoned_c
    double keep_h       # the share of the new state where there is no mask
    double keep_c
    const unsigned char *keeps_h  # (T,B,P) 1: the new state; NULL: keep_h everywhere
    const unsigned char *keeps_c  # (T,B,H)
    const void *drop_h  # (B,P) multiplies h[t-1] on its way to the gates, or NULL
    const void *drop_g  # (B,H) multiplies g on its way to c, or NULL

    # the tape, or one slot of each (two of ifo) when nothing is kept; those that are needed
    Py_ssize_t slots, ifo_slots
    unsigned char *clipped  # (slots,B,4H) whether the argument was clipped
    void *ifo               # (ifo_slots,B,3H) the gates of a step, as slots of the state; 0: none
    void *x_hat             # (slots,B,4H) LN(W_ih x); backward: its product's gradient, in place
    void *h_hat             # (slots,B,4H) LN(W_hh h)
    void *x_scale           # (slots,B) 1 / the standard deviation of W_ih x
    void *h_scale           # (slots,B)
    void *h_drop            # (slots,B,P) drop_h h[t-1]
    void *c_new             # (slots,B,H) c before zoneout

    # backward
    void *difo              # (B,3H) from the step after to the gates of this one
    void *dw_fgr
    void *dln_x
    void *dln_h
    void *dln_c


# -- layer norm: over the live gates of a row, or over a cell ----------------------------------

cdef inline real normalise(
    Py_ssize_t blocks, Py_ssize_t H, const bint *live, real *a
) noexcept nogil:
    """a := LN(a) of the live blocks of H numbers, 0 in the others; returns 1 / its deviation."""
    cdef Py_ssize_t j, k, n = 0
    cdef double mean = 0, square = 0, d
    cdef real centre, scale
    for k in range(blocks):
        if live == NULL or live[k]:
            n += H
            for j in range(k * H, (k + 1) * H):
                mean += a[j]
    centre = <real>(mean / n)
    for k in range(blocks):
        if live == NULL or live[k]:
            for j in range(k * H, (k + 1) * H):
                a[j] -= centre
                d = a[j]
                square += d * d
    scale = <real>(1 / sqrt(square / n + 1e-5))  # reference.EPS
    for k in range(blocks):
        if live == NULL or live[k]:
            for j in range(k * H, (k + 1) * H):
                a[j] *= scale
        else:
            memset(a + k * H, 0, H * sizeof(real))
    return scale


cdef inline void normalise_backward(
    Py_ssize_t blocks, Py_ssize_t H, const bint *live, const real *hat, real scale, real *d
) noexcept nogil:
    """d in: dL/dLN(a); out: dL/da."""
    cdef Py_ssize_t j, k, n = 0
    cdef double mean = 0, along = 0
    cdef real mean_, along_
    for k in range(blocks):
        if live == NULL or live[k]:
            n += H
            for j in range(k * H, (k + 1) * H):
                mean += d[j]
                along += <double>d[j] * hat[j]
    mean_, along_ = <real>(mean / n), <real>(along / n)
    for k in range(blocks):
        if live == NULL or live[k]:
            for j in range(k * H, (k + 1) * H):
                d[j] = scale * (d[j] - mean_ - hat[j] * along_)
        else:
            memset(d + k * H, 0, H * sizeof(real))


cdef inline void product_backward(
    const fl_lstm *q, const Variant *v, const real *gain, const real *da, real scale,
    real *hat,   # (4H) in: LN of the product; out: the product's gradient
    real *dgain,
    real *d,     # (4H) scratch
) noexcept nogil:
    """Through a += gain LN(product)."""
    cdef Py_ssize_t j
    for j in range(4 * q.H):
        dgain[j] += da[j] * hat[j]
        d[j] = gain[j] * da[j]
    normalise_backward(4, q.H, v.live, hat, scale, d)
    memcpy(hat, d, 4 * q.H * sizeof(real))


# -- one row -----------------------------------------------------------------------------------

cdef inline void squash(
    const fl_lstm *q, const Variant *v, int k, const Activation *f, real *a,
    unsigned char *clipped,
) noexcept nogil:
    """Gate k of the row: clipped and activated, or 1 where it has no weights."""
    cdef Py_ssize_t j, H = q.H
    cdef real limit = <real>v.clip
    a += k * H
    if not v.live[k]:
        for j in range(H):
            a[j] = 1
        return
    if v.clip > 0:
        clipped += k * H
        for j in range(H):
            clipped[j] = fabs(a[j]) >= limit
            a[j] = limit if a[j] > limit else -limit if a[j] < -limit else a[j]
    activate(f, H, a, a)


cdef inline void unsquash(
    const fl_lstm *q, const Variant *v, int k, const Activation *f, const real *gates, real *d,
    const unsigned char *clipped,
) noexcept nogil:
    """The gradient of gate k's argument from that of its value; 0 where it has no weights."""
    cdef Py_ssize_t j, H = q.H
    d += k * H
    if not v.live[k]:
        memset(d, 0, H * sizeof(real))
        return
    derive(f, H, gates + k * H, d)
    if v.clip > 0:
        clipped += k * H
        for j in range(H):
            if clipped[j]:
                d[j] = 0


cdef inline void add_product(
    Py_ssize_t n, const real *p, const real *q, real *to
) noexcept nogil:
    """to += p * q."""
    cdef Py_ssize_t j
    for j in range(n):
        to[j] += p[j] * q[j]


cdef inline void output_forward(
    const fl_lstm *q, const Variant *v, const real *c, real *s, real *hat, real *scale
) noexcept nogil:
    """s := output(c), with layer norm output(ln_c LN(c)) and hat = LN(c); hat may be s."""
    cdef Py_ssize_t j, H = q.H
    cdef const real *ln_c = <const real *>v.ln_c
    if ln_c == NULL:
        activate(&v.output, H, c, s)
        return
    memcpy(hat, c, H * sizeof(real))
    scale[0] = normalise(1, H, NULL, hat)
    for j in range(H):
        s[j] = ln_c[j] * hat[j] + ln_c[H + j]
    activate(&v.output, H, s, s)


cdef inline void variant_forward(
    const fl_lstm *q, const Variant *v,
    real *a,                       # (4H) in: all but bias and peepholes; out: the gates
    unsigned char *clipped,        # (4H)
    const real *c_prev,            # (H)
    real *c_new,                   # (H) out: before zoneout
    real *c,                       # (H) out: the cell that is carried; without zoneout c_new
    const unsigned char *keeps_c,  # (H) or NULL
    const real *drop_g,            # (H) or NULL
    real *m,                       # (H) out: o output(c)
) noexcept nogil:
    cdef Py_ssize_t j, H = q.H
    cdef const real *b = <const real *>q.b
    cdef const real *p = <const real *>q.w_peephole
    cdef real limit = <real>q.cell_clip, scale, keep = <real>v.keep_c
    cdef const real *i = a
    cdef real *f = a + H
    cdef const real *g = a + 2 * H
    cdef real *o = a + 3 * H
    if b != NULL:
        for j in range(4 * H):
            a[j] += b[j]
    if q.peepholes & FL_PEEPHOLE_I:
        add_product(H, p, c_prev, a)
    if q.peepholes & FL_PEEPHOLE_F:
        add_product(H, p + H, c_prev, f)
    squash(q, v, 0, &v.gate, a, clipped)
    squash(q, v, 1, &v.gate, a, clipped)
    squash(q, v, 2, &v.candidate, a, clipped)
    if q.coupled:
        for j in range(H):
            f[j] = 1 - i[j]
    if drop_g == NULL:
        for j in range(H):
            c_new[j] = f[j] * c_prev[j] + i[j] * g[j]
    else:
        for j in range(H):
            c_new[j] = f[j] * c_prev[j] + i[j] * (drop_g[j] * g[j])
    if q.cell_clip > 0:
        for j in range(H):
            c_new[j] = limit if c_new[j] > limit else -limit if c_new[j] < -limit else c_new[j]
    if q.peepholes & FL_PEEPHOLE_O:
        add_product(H, p + 2 * H, c_new, o)
    squash(q, v, 3, &v.gate, a, clipped)
    output_forward(q, v, c_new, m, m, &scale)
    for j in range(H):
        m[j] *= o[j]
    if v.zoned_c:
        mix(H, keeps_c, keep, c_prev, c_new, c)


cdef inline void mix(
    Py_ssize_t n, const unsigned char *keeps, real keep, const real *old, const real *new, real *to
) noexcept nogil:
    """Zoneout: the new state where it is kept, else the old; without a mask their mixture."""
    cdef Py_ssize_t j
    if keeps == NULL:
        for j in range(n):
            to[j] = keep * new[j] + (1 - keep) * old[j]
    else:
        for j in range(n):
            to[j] = new[j] if keeps[j] else old[j]


cdef inline void unmix(
    Py_ssize_t n, const unsigned char *keeps, real keep, real *d, real *rest
) noexcept nogil:
    """d in: the gradient of the mixture; out: of the new state, and ``rest`` of the old."""
    cdef Py_ssize_t j
    for j in range(n):
        if keeps != NULL:
            keep = keeps[j]
        rest[j] = (1 - keep) * d[j]
        d[j] *= keep


cdef inline void variant_backward(
    const fl_lstm *q, const Variant *v,
    real *gates,                   # (4H) in: the gates; out: their arguments' gradients
    const unsigned char *clipped,  # (4H)
    const real *c_prev,            # (H)
    const real *c_new,             # (H) before zoneout
    const unsigned char *keeps_c,  # (H) or NULL
    const real *drop_g,            # (H) or NULL
    const real *difo,              # (3H) dL/d(i f o) by the step after, or NULL
    const real *dm,                # (H)
    real *dc,                      # (H) in: dL/dc[t]; out: dL/dc[t-1]
    real *scratch,                 # (ROW_SCRATCH H)
    real *norm_c,                  # out: the sum of squares of dL/dc[t], or NULL
) noexcept nogil:
    cdef Py_ssize_t j, H = q.H
    cdef const real *p = <const real *>q.w_peephole
    cdef const real *ln_c = <const real *>v.ln_c
    cdef real *dln_c = <real *>v.dln_c
    cdef real *s = scratch
    cdef real *hat = scratch + H
    cdef real *d = scratch + 2 * H  # (4H) the gradients of i f g o
    cdef real *rest = d             # zoneout: until d is needed, dL/dc[t-1] past the step
    cdef real *ds = d + 2 * H
    cdef real *d_o = d + 3 * H
    cdef real limit = <real>q.cell_clip, scale = 0, old
    if v.zoned_c:  # h~ is not made of the cell that is carried
        if norm_c != NULL:
            norm_c[0] = <real>squares(H, dc)
        unmix(H, keeps_c, <real>v.keep_c, dc, rest)
    output_forward(q, v, c_new, s, hat, &scale)
    for j in range(H):  # m = o output(ln_c LN(c))
        d_o[j] = dm[j] * s[j]
        ds[j] = dm[j] * gates[3 * H + j]
    derive(&v.output, H, s, ds)
    if ln_c != NULL:
        for j in range(H):
            dln_c[j] += ds[j] * hat[j]
            dln_c[H + j] += ds[j]
            ds[j] *= ln_c[j]
        normalise_backward(1, H, NULL, hat, scale, ds)
    if difo != NULL:
        for j in range(H):
            d_o[j] += difo[2 * H + j]
    unsquash(q, v, 3, &v.gate, gates, d, clipped)
    for j in range(H):
        dc[j] += ds[j]
    if q.peepholes & FL_PEEPHOLE_O:  # a_o += p_o c[t]
        add_product(H, p + 2 * H, d_o, dc)
    if norm_c != NULL and not v.zoned_c:
        norm_c[0] = <real>squares(H, dc)
    if q.cell_clip > 0:
        for j in range(H):
            if fabs(c_new[j]) >= limit:
                dc[j] = 0
    for j in range(H):  # c = f c[t-1] + i g
        old = rest[j] if v.zoned_c else 0
        d[2 * H + j] = dc[j] * gates[j]
        d[H + j] = dc[j] * c_prev[j]
        d[j] = dc[j] * gates[2 * H + j]
        dc[j] = dc[j] * gates[H + j] + old
    if drop_g != NULL:
        for j in range(H):
            d[j] *= drop_g[j]
            d[2 * H + j] *= drop_g[j]
    if difo != NULL:
        for j in range(2 * H):
            d[j] += difo[j]
    if q.coupled:  # f = 1 - i
        for j in range(H):
            d[j] -= d[H + j]
    unsquash(q, v, 0, &v.gate, gates, d, clipped)
    unsquash(q, v, 1, &v.gate, gates, d, clipped)
    unsquash(q, v, 2, &v.candidate, gates, d, clipped)
    if q.peepholes & FL_PEEPHOLE_I:
        add_product(H, p, d, dc)
    if q.peepholes & FL_PEEPHOLE_F:
        add_product(H, p + H, d + H, dc)
    memcpy(gates, d, 4 * H * sizeof(real))


cdef inline double squares(Py_ssize_t n, const real *a) noexcept nogil:
    """The sum of the squares."""
    cdef Py_ssize_t j
    cdef double sum = 0
    for j in range(n):
        sum += <double>a[j] * a[j]
    return sum


# -- from Python: _variants.pyx ----------------------------------------------------------------

cdef int name_peepholes(fl_lstm *q, spec) except -1
cdef int describe_variant(Variant *v, spec, dict arrays) except -1
cdef int describe_in_full(Variant *v, spec, dict arrays) except -1
cdef int use_memory(Variant *v, dict memory, Py_ssize_t slots) except -1
cdef int use_gradients(Variant *v, dict dw, difo, bint add) except -1
