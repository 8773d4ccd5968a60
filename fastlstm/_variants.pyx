# SPDX-License-Identifier: MIT
"""A `Spec` as the BLAS step reads it, and the memory that its variants need."""

import numpy as np

from .activations import ACTIVATIONS

from ._arrays cimport address

_KINDS = {name: kind for kind, name in enumerate(ACTIVATIONS)}


cdef int name_peepholes(fl_lstm *q, spec) except -1:
    """The fields of fl_lstm that say which variant of the cell it is."""
    q.peepholes = (FL_PEEPHOLE_I * ("i" in spec.peepholes) | FL_PEEPHOLE_F * ("f" in spec.peepholes)
                   | FL_PEEPHOLE_O * ("o" in spec.peepholes))
    q.coupled, q.cell_clip = spec.coupled, spec.cell_clip or 0
    return 0


cdef Activation activation_of(value, const Variant *v) except *:
    """An activation as `Spec` writes it."""
    cdef Activation f
    name, *numbers = (value,) if isinstance(value, str) else value
    f.kind = _KINDS[name]
    f.alpha, f.beta = (*numbers, 0, 0)[:2]
    f.sigmoid, f.tanh = v.sigmoid, v.tanh
    return f


cdef int describe_variant(Variant *v, spec, dict arrays) except -1:
    """Everything but the memory; v.sigmoid and v.tanh are there, the rest is 0."""
    cdef int k
    v.keep_h = v.keep_c = 1
    v.plain = not spec.changed
    if v.plain:
        return 0
    for k in range(4):
        v.live[k] = spec.live[k]
    v.gate, v.candidate, v.output = (activation_of(spec.gate, v), activation_of(spec.candidate, v),
                                     activation_of(spec.output, v))
    v.clip = spec.clip or 0
    v.w_fgr = address(arrays.get("w_fgr"))
    v.ln_x, v.ln_h, v.ln_c = (address(arrays.get("ln_x")), address(arrays.get("ln_h")),
                              address(arrays.get("ln_c")))
    return 0


def variant_memory(spec, shape, P, save, dtype):
    """What a forward pass keeps for the backward pass or, without ``save``, works in.

    Parameters
    ----------
    spec : Spec
    shape : tuple (T, B, H)
    P : int
    save : bool
    dtype : dtype

    Returns
    -------
    dict of str to ndarray
        By the names in `Variant`, those that this variant needs.
    """
    T, B, H = shape
    slots = max(1, T) if save else 1
    shapes = {}
    if spec.clip is not None:
        shapes["clipped"] = slots, B, 4 * H
    if spec.full_gate_recurrence:
        shapes["ifo"] = slots + 1, B, 3 * H
    if spec.layer_norm:
        shapes |= dict(x_hat=(slots, B, 4 * H), h_hat=(slots, B, 4 * H), x_scale=(slots, B),
                       h_scale=(slots, B))
    return {name: np.zeros(size, np.uint8 if name == "clipped" else dtype)
            for name, size in shapes.items()}


cdef int use_memory(Variant *v, dict memory, Py_ssize_t slots) except -1:
    """Let the step find its memory."""
    get = memory.get
    v.slots, v.ifo_slots = slots, slots + 1
    v.clipped, v.ifo = <unsigned char *>address(get("clipped")), address(get("ifo"))
    v.x_hat, v.h_hat = address(get("x_hat")), address(get("h_hat"))
    v.x_scale, v.h_scale = address(get("x_scale")), address(get("h_scale"))
    return 0


cdef int use_gradients(Variant *v, dict dw, difo) except -1:
    """Let the backward step find where the gradients go; those that it adds to start at 0."""
    for name in ("ln_x", "ln_h", "ln_c"):
        if name in dw:
            dw[name][...] = 0
    v.dw_fgr, v.difo = address(dw.get("w_fgr")), address(difo)
    v.dln_x, v.dln_h = address(dw.get("ln_x")), address(dw.get("ln_h"))
    v.dln_c = address(dw.get("ln_c"))
    return 0
