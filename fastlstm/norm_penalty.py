# SPDX-License-Identifier: MIT
"""The penalty of Pascanu, Mikolov and Bengio (2013), section 3.3, on back-propagated norms.

With s[t] the state of a cell after step t, (h[t], c[t]) or in an RNN h[t], and e[t] = dL/ds[t] the
error that back-propagation through time brings there,

    Omega = sum over t of ( |e[t] ds[t]/ds[t-1]| / |e[t]| - 1 )**2          (their equation 9)

asks that an error on its way back neither vanishes nor explodes. The sum is over the steps of a
row, over layers and directions; over the rows of a batch it is the mean.

As in the paper (equation 10) the derivative with respect to the recurrent weights is the immediate
one: errors, states and gates are held fixed. With da[t] the error at the gates' arguments, which
e[t] causes, what arrives at the step before is v[t] = e[t] ds[t]/ds[t-1], and the derivative,

    RNN    v = da W_hh
    GRU    v = e z + (da_r, da_z, r da_n) W_hh                          reset_after
           v = e z + (da_r, da_z) W_hh[rz] + r (da_n W_hh[n])           without it
    LSTM   v = ( da W_hh,  f dc + p_i da_i + p_f da_f )
           dc = e_c + e_h o output'(c) + p_o da_o, 0 where c was clipped
    dOmega/dv = 2 (r[t] - 1) / (|e[t]| |v[t]|) v[t],  and dOmega/dW_hh is what follows from that

where r[t] is the ratio in Omega, and p are the peepholes, where there are some. h and c may be
scaled against each other at will; this takes them as they are.
"""

import numpy as np

from .activations import activation
from .layer import LSTM
from .sibling_layers import GRU, RNN

__all__ = ["NormPenalty", "check_penalised"]

_UNKNOWN = (  # the fields of a Spec that bring other states, or other ways back to them
    "layer_norm", "full_gate_recurrence", "zoneout_h", "zoneout_c", "recurrent_dropout",
    "weight_drop",
)  # fmt: skip


def check_penalised(layer):
    """Raise NotImplementedError where the penalty does not know the cells of a layer."""
    if isinstance(layer, (RNN, GRU)):
        return
    if not isinstance(layer, LSTM):
        raise NotImplementedError(f"norm_penalty is for RNN, GRU and LSTM, got {layer!r}")
    unknown = [name for name in _UNKNOWN if name in layer.spec.changed]
    if unknown:
        raise NotImplementedError(
            f"norm_penalty is for RNN, GRU and LSTM, but not for a spec with "
            f"{', '.join(_UNKNOWN)}; got {layer!r}"
        )


class NormPenalty:
    """Looks on while `Sequential.backward` runs, then adds the gradient of Omega.

    penalty = NormPenalty()
    _, grads = model.backward(tape, dy, watch=penalty.look)
    omega = penalty.add(grads, strength)
    """

    def __init__(self):
        self._layers = []

    def look(self, name, layer, tape, dy, dstate):
        """Note what the backward pass of a recurrent member begins with.

        Parameters
        ----------
        name : str
            Stands before the names of the layer's parameters in those of the model.
        layer : LSTM, GRU or RNN
        tape : tape of its `forward`
            Before it is consumed.
        dy : ndarray (B, T, D*(H|P)), or None
        dstate : pair of ndarray (L*D, B, H|P), (L*D, B, H), for GRU and RNN the first, or None
        """
        kind = (
            _LSTMCell if isinstance(layer, LSTM) else _GRUCell if isinstance(layer, GRU) else _Cell
        )
        cells = [[kind(cell) for cell in directions] for directions in tape.tapes]
        dy = None if dy is None else dy.swapaxes(0, 1)  # fit has samples first
        self._layers.append((name, layer, cells, tape.masks, dy, dstate))

    def add(self, grads, strength):
        """Add the gradient of ``strength * Omega`` to that of the recurrent weights.

        Returns
        -------
        float
            Omega.
        """
        return sum(self._add(grads, strength, *layer) for layer in self._layers)

    @staticmethod
    def _add(grads, strength, name, layer, cells, masks, dy, dstate):
        omega, D, weights = 0.0, len(cells[0]), layer.parameters()
        for k in reversed(range(len(cells))):
            if masks[k] is not None:
                dy = dy * masks[k]
            dx = 0.0
            for d, cell in enumerate(cells[k]):
                suffix = f"_l{k}" + ("_reverse" if d else "")
                names = "weight_hh", "weight_hr", "weight_peephole"
                w_hh, *more = (weights.get(w + suffix) for w in names)
                P = w_hh.shape[1]
                ends = [None, None]
                if dstate is not None:
                    states = dstate if isinstance(dstate, tuple) else (dstate, None)
                    ends = layer._by_cell(states)[k * D + d]
                mine = None if dy is None else dy[:, :, d * P : (d + 1) * P]
                part, dw = cell.omega(w_hh, *more, mine, *ends)
                grads[f"{name}weight_hh{suffix}"] += np.asarray(strength * dw, dw.dtype)
                omega += part
                dx = dx + cell.da() @ weights["weight_ih" + suffix]
            dy = dx
        return omega


class _Cell:
    """One layer of an RNN in one direction, and what is common to all cells.

    What the backward pass will overwrite is copied. ``omega`` puts everything into the order in
    which the steps are computed.
    """

    def __init__(self, tape):
        self.tape = tape
        self.T, self.B = tape.gates.shape[:2]

    def da(self):
        """The error at the gates' arguments (T, B, n*H), after the backward pass."""
        return self.tape.dgates.reshape(self.T, self.B, -1)

    def omega(self, w_hh, w_proj, w_peephole, dy, dh_n, dc_n):
        """Omega, and its immediate derivative by ``w_hh``."""
        inputs, T, B = self.tape.inputs, self.T, self.B
        n = np.full(B, T) if inputs.lengths is None else np.asarray(inputs.lengths)
        on = np.arange(T)[:, None] < n
        order = slice(None, None, -1) if inputs.reverse else slice(None)
        self.w_proj, self.w_peephole = w_proj, w_peephole
        self.arrange(order)
        da = self.da()[order]
        v_h = self.product(da, w_hh)  # (T, B, H|P): grows to what arrives at the step before
        e_h = np.zeros_like(v_h) if dy is None else np.where(on[..., None], dy, 0)[order]
        e_c = np.zeros((T, B, self.cells), v_h.dtype)
        v_c, on = np.zeros_like(e_c), on[order]
        last = np.full(B, T - 1) if inputs.reverse else n - 1  # an empty row is never on
        for e, end in ((e_h, dh_n), (e_c, dc_n)):
            e[last, np.arange(B)] += 0 if end is None else end
        for t in reversed(range(T)):
            if t + 1 < T:
                e_h[t] += v_h[t + 1]
                e_c[t] += v_c[t + 1]
            carried_h, carried_c = self.carried(t, e_h[t], e_c[t], da[t])
            v_h[t] += np.where(on[t, :, None], carried_h, 0)
            v_c[t] = np.where(on[t, :, None], carried_c, 0)
        arrives, e = _norm(v_h, v_c)[1:], _norm(e_h, e_c)[1:]
        counts = on[1:] & on[:-1] & (e > 0) & (arrives > 0)  # where nothing is, nothing can be said
        e, arrives = np.where(counts, e, 1), np.where(counts, arrives, 1)
        excess = arrives / e - 1
        factor = np.zeros((T, B, 1))
        factor[1:, :, 0] = 2 * excess / (e * arrives) / B
        dw = self.immediate(da * factor.astype(da.dtype), v_h)
        return float((excess**2).sum() / B), dw

    cells = 0  # how many c there are

    def arrange(self, order):
        """Put what was copied into the order in which the steps are computed."""

    def product(self, da, w_hh):
        """What of da arrives at h[t-1] through W_hh, (T, B, H|P)."""
        return da @ w_hh

    def immediate(self, da, v):
        """The derivative by W_hh of the sum of `product` * v, with the scaled errors da."""
        return _summed(da, v)

    def carried(self, t, e_h, e_c, da):
        """What arrives at h[t-1] and c[t-1] without W_hh: (B, H|P), (B, H)."""
        return 0, 0


class _GRUCell(_Cell):
    def __init__(self, tape):
        super().__init__(tape)
        r, z, _ = np.moveaxis(tape.gates, 2, 0)
        self.r, self.z = r.copy(), z.copy()
        self.reset_after = tape.inputs.cell.reset_after

    def arrange(self, order):
        """r and z in the order of the steps."""
        self.r, self.z = self.r[order], self.z[order]

    def _split(self, da):
        """Errors that meet W_hh before h does: those at r and z; and those at n."""
        H = self.r.shape[2]
        return da[..., : 2 * H], da[..., 2 * H :]

    def product(self, da, w_hh):
        """da W_hh, but that n sees r * h, or r * (W_hh h) with ``reset_after``."""
        da_rz, da_n = self._split(da)
        u_rz, u_n = np.split(w_hh, [da_rz.shape[2]])
        through_n = (self.r * da_n) @ u_n if self.reset_after else self.r * (da_n @ u_n)
        return da_rz @ u_rz + through_n

    def immediate(self, da, v):
        """The same with r where `product` has it."""
        da_rz, da_n = self._split(da)
        of_n = (self.r * da_n, v) if self.reset_after else (da_n, self.r * v)
        return np.vstack([_summed(da_rz, v), _summed(*of_n)])

    def carried(self, t, e_h, e_c, da):
        """h[t] = z h[t-1] + ...: z of the error goes on."""
        return self.z[t] * e_h, 0


class _LSTMCell(_Cell):
    def __init__(self, tape):
        super().__init__(tape)
        self.f, self.o = tape.gates[:, :, 1].copy(), tape.gates[:, :, 3].copy()
        self.cells = self.f.shape[2]

    def arrange(self, order):
        """f, o and the new c in the order of the steps."""
        after = self.tape.c[:-1] if self.tape.inputs.reverse else self.tape.c[1:]
        self.f, self.o, self.c = (a[order] for a in (self.f, self.o, after))

    def carried(self, t, e_h, e_c, da):
        """c[t] = f c[t-1] + ...: f of the error goes on, and what the peepholes saw."""
        spec, c = self.tape.inputs.spec, self.c[t]
        output, d_output = activation(spec.output)
        dm = e_h if self.w_proj is None else e_h @ self.w_proj
        dc = e_c + d_output(output(c), dm * self.o[t])
        # a gate without a peephole has its row of w_peephole ignored
        p = dict.fromkeys("ifo", 0)
        if self.w_peephole is not None:
            p |= {q: w for q, w in zip("ifo", self.w_peephole, strict=True) if q in spec.peepholes}
        da_i, da_f, _, da_o = np.split(da, 4, axis=1)
        dc = dc + p["o"] * da_o
        if spec.cell_clip is not None:
            dc = np.where(np.abs(c) >= spec.cell_clip, 0, dc)
        return 0, self.f[t] * dc + p["i"] * da_i + p["f"] * da_f


def _summed(da, v):
    """The sum of da^T v over steps and rows."""
    return da.reshape(-1, da.shape[2]).T @ v.reshape(-1, v.shape[2])


def _norm(h, c):
    """The length of each (h, c), (T, B), in float64: squares of small errors underflow."""
    squares = (np.square(a, dtype=np.float64).sum(axis=2) for a in (h, c))
    return np.sqrt(sum(squares))
