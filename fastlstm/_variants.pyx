# SPDX-License-Identifier: MIT
"""A `Spec` as the BLAS step reads it, and the memory that its variants need."""

import numpy as np

from .activations import ACTIVATIONS

from ._arrays cimport address

# The fields of Spec that are none of the step's: it reads W_hh as it is
NOT_IN_STEP = frozenset({"weight_drop", "recurrent_dropout_on"})
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
    v.plain = not spec.changed or spec.changed.keys() <= NOT_IN_STEP
    if not v.plain:
        describe_in_full(v, spec, arrays)
    return 0


cdef int describe_in_full(Variant *v, spec, dict arrays) except -1:
    """The same also for the default cell, which shall take the way of the variants."""
    cdef int k
    v.plain = False
    for k in range(4):
        v.live[k] = spec.live[k]
    v.gate, v.candidate, v.output = (activation_of(spec.gate, v), activation_of(spec.candidate, v),
                                     activation_of(spec.output, v))
    v.clip = spec.clip or 0
    v.zoned_h, v.zoned_c = spec.zoneout_h > 0, spec.zoneout_c > 0
    v.keep_h, v.keep_c = 1 - spec.zoneout_h, 1 - spec.zoneout_c
    v.w_fgr = address(arrays.get("w_fgr"))
    v.ln_x, v.ln_h, v.ln_c = (address(arrays.get("ln_x")), address(arrays.get("ln_h")),
                              address(arrays.get("ln_c")))
    return 0


def variant_memory(spec, shape, P, save, dtype, masks, order):
    """What a forward pass keeps for the backward pass or, without ``save``, works in.

    Parameters
    ----------
    spec : Spec
    shape : tuple (T, B, H)
    P : int
    save : bool
    dtype : dtype
    masks : dict of str to ndarray
        As of `masks.cell_masks`.
    order : ndarray (B,) or None
        The rows of the masks that are the rows of the step.

    Returns
    -------
    dict of str to ndarray
        By the names in `Variant`, those that this variant needs.
    """
    T, B, H = shape
    slots = max(1, T) if save else 1
    shapes, memory = {}, {}
    if spec.clip is not None:
        shapes["clipped"] = slots, B, 4 * H
    if spec.full_gate_recurrence:
        shapes["ifo"] = slots + 1, B, 3 * H
    if spec.layer_norm:
        shapes |= dict(x_hat=(slots, B, 4 * H), h_hat=(slots, B, 4 * H), x_scale=(slots, B),
                       h_scale=(slots, B))
    if spec.zoneout_c:
        shapes["c_new"] = slots, B, H
    for name, field in (("keeps_h", "zoneout_h"), ("keeps_c", "zoneout_c")):
        if field in masks:
            mask = masks[field].view(np.uint8)
            memory[name] = mask if order is None else mask.take(order, axis=1)
    if "recurrent_dropout" in masks:
        mask = masks["recurrent_dropout"]
        name = "drop_h" if spec.recurrent_dropout_on == "h" else "drop_g"
        memory[name] = mask if order is None else mask[order]
        if name == "drop_h":
            shapes["h_drop"] = slots, B, P
    for name, size in shapes.items():
        memory[name] = np.zeros(size, np.uint8 if name == "clipped" else dtype)
    return memory


cdef int use_memory(Variant *v, dict memory, Py_ssize_t slots) except -1:
    """Let the step find its memory."""
    get = memory.get
    v.slots, v.ifo_slots = slots, slots + 1
    v.clipped, v.ifo = <unsigned char *>address(get("clipped")), address(get("ifo"))
    v.x_hat, v.h_hat = address(get("x_hat")), address(get("h_hat"))
    v.x_scale, v.h_scale = address(get("x_scale")), address(get("h_scale"))
    v.c_new, v.h_drop = address(get("c_new")), address(get("h_drop"))
    v.keeps_h = <const unsigned char *>address(get("keeps_h"))
    v.keeps_c = <const unsigned char *>address(get("keeps_c"))
    v.drop_h, v.drop_g = address(get("drop_h")), address(get("drop_g"))
    return 0


cdef int use_gradients(Variant *v, dict dw, difo, bint add) except -1:
    """Let the backward step find where the gradients go; those that it adds to start at 0."""
    for name in ("ln_x", "ln_h", "ln_c"):
        if name in dw and not add:
            dw[name][...] = 0
    v.dw_fgr, v.difo = address(dw.get("w_fgr")), address(difo)
    v.dln_x, v.dln_h = address(dw.get("ln_x")), address(dw.get("ln_h"))
    v.dln_c = address(dw.get("ln_c"))
    return 0
