# SPDX-License-Identifier: MIT
"""Second derivatives of layers on layers, directions side by side.

As `_stack`, with a tangent beside every array: forward the tangent of one layer's y is that of x
of the next, backward the tangent of one layer's dx is that of dy of the layer below.
"""

import numpy as np

from ._second_order import tangent_backward, tangent_forward
from .checks import Inputs
from .tangent_checks import FIELDS

__all__ = ["differentiable", "stack_hvp", "stack_jvp"]


def differentiable(spec):
    """Whether second derivatives of this variant are known."""
    return not spec.changed or all(field in FIELDS for field in spec.changed)


def stack_jvp(tapes, masks, tx, tstarts, tweights):
    """The tangents of `stack_forward`'s outputs.

    Parameters
    ----------
    tapes, masks
        Of `stack_forward`. The tapes are not consumed.
    tx : ndarray (T, B, I) or None: zeros
    tstarts : list of L*D tuples (th0, tc0) of arrays or None: zeros
    tweights : list of L*D dicts
        The tangents of the weights, by name; of a weight that is missing it is zero.

    Returns
    -------
    ty : ndarray (T, B, D*(H|P))
    tends : list of L*D tuples (th_n, tc_n)
    moved : list of L lists of D
        For `stack_hvp`.
    """
    tends, moved = [], []
    for layer, of_layer in enumerate(tapes):
        outputs = []
        moved.append([])
        for d, tape in enumerate(of_layer):
            k = layer * len(of_layer) + d
            v = _tangents(tape.inputs, tx, tstarts[k], tweights[k])
            ty, tend, moved_d = tangent_forward(tape, v)
            outputs.append(ty)
            tends.append(tend)
            moved[-1].append(moved_d)
        tx = outputs[0] if len(outputs) == 1 else np.concatenate(outputs, axis=2)
        if masks[layer] is not None:
            tx = tx * masks[layer]
    return tx, tends, moved


def _tangents(q, tx, tstart, tweights):
    """The tangents of one cell as `tangent_forward` takes them."""
    v = dict.fromkeys(("w_ih", "w_hh", "b", "w_proj"))
    if q.w_peephole is not None:
        v["w_peephole"] = np.zeros_like(q.w_peephole)
    return Inputs(x=tx, h0=tstart[0], c0=tstart[1], lengths=q.lengths, reverse=q.reverse,
                  spec=q.spec, y=None, **v | tweights)  # fmt: skip


def stack_hvp(moved, masks, dy, dends):
    """The tangents of what `stack_backward` returns, where dy and dends do not move.

    Parameters
    ----------
    moved
        From `stack_jvp`.
    masks, dy, dends
        As for `stack_backward`.

    Returns
    -------
    tdx : ndarray (T, B, I)
    tdstarts : list of L*D tuples (tdh0, tdc0)
    tgrads : list of L*D dicts
        By the names of the weights.
    """
    tdy, D = None, len(moved[0])
    cells = [None] * (len(moved) * D)
    for layer in reversed(range(len(moved))):
        if masks[layer] is not None:
            dy, tdy = (None if a is None else a * masks[layer] for a in (dy, tdy))
        if dy is not None and tdy is None:
            tdy = np.zeros_like(dy)
        dx = tdx = 0
        for d in range(D):
            k = layer * D + d
            P = moved[layer][d].inputs.P
            part = slice(d * P, (d + 1) * P)
            u, tu = (None if a is None else a[:, :, part] for a in (dy, tdy))
            (dx_d, _, _), (tdx_d, *cells[k]) = tangent_backward(
                moved[layer][d], (u, *dends[k]), (tu, None, None)
            )
            dx, tdx = dx + dx_d, tdx + tdx_d  # both read the same x
        dy, tdy = dx, tdx
    tdstarts, tgrads = zip(*cells, strict=True)
    return tdy, list(tdstarts), list(tgrads)
