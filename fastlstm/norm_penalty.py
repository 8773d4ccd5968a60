# SPDX-License-Identifier: MIT
"""The penalty of Pascanu, Mikolov and Bengio (2013), section 3.3, on back-propagated norms.

With s[t] the state of a cell after step t, (h[t], c[t]) or in an RNN h[t], and e[t] = dL/ds[t] the
error that back-propagation through time brings there,

    Omega = sum over t of ( |e[t] ds[t]/ds[t-1]| / |e[t]| - 1 )**2          (their equation 9)

asks that an error on its way back neither vanishes nor explodes. The sum is over the steps of a
row, over layers and directions; over the rows of a batch it is the mean.

As in the paper (equation 10) the derivative with respect to the recurrent weights is the immediate
one: errors, states and gates are held fixed. With da[t] the error at the gates' arguments, which
e[t] causes, what arrives at the step before, and the derivative, are

    e[t] ds[t]/ds[t-1] = ( da[t] W_hh,  f[t] dc[t] )
    dc[t] = e_c[t] + e_h[t] o[t] (1 - tanh(c[t])**2)
    dOmega/dW_hh = sum over t of  2 (r[t] - 1) / (|e[t]| |e[t] ds[t]/ds[t-1]|)  da[t]^T (da[t] W_hh)

where r[t] is the ratio in Omega; an RNN has no terms of c. h and c may be scaled against each
other at will; this takes them as they are.
"""

import numpy as np

__all__ = ["NormPenalty"]


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
        layer : LSTM or RNN
        tape : tape of its `forward`
            Before it is consumed.
        dy : ndarray (B, T, D*(H|P)), or None
        dstate : pair of ndarray (L*D, B, H|P), (L*D, B, H), for an RNN the first alone, or None
        """
        cells = [[_Cell(cell) for cell in directions] for directions in tape.tapes]
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
                w_hh, w_proj = (weights.get(w + suffix) for w in ("weight_hh", "weight_hr"))
                P = w_hh.shape[1]
                ends = [None, None]
                if dstate is not None:
                    states = dstate if isinstance(dstate, tuple) else (dstate, None)
                    ends = layer._by_cell(states)[k * D + d]
                mine = None if dy is None else dy[:, :, d * P : (d + 1) * P]
                part, dw = cell.omega(w_hh, w_proj, mine, *ends)
                grads[f"{name}weight_hh{suffix}"] += np.asarray(strength * dw, dw.dtype)
                omega += part
                dx = dx + cell.da() @ weights["weight_ih" + suffix]
            dy = dx
        return omega


class _Cell:
    """One layer in one direction: what the backward pass will overwrite, and the tape."""

    def __init__(self, tape):
        self.tape, gates = tape, tape.gates
        self.T, self.B, n, _ = gates.shape
        self.f = self.o = None  # what an RNN has not
        if n == 4:
            self.f, self.o = gates[:, :, 1].copy(), gates[:, :, 3].copy()

    def da(self):
        """The error at the gates' arguments (T, B, 4H), (T, B, H), after the backward pass."""
        return self.tape.dgates.reshape(self.T, self.B, -1)

    def omega(self, w_hh, w_proj, dy, dh_n, dc_n):
        """Omega, and its immediate derivative by ``w_hh``."""
        inputs, T, B = self.tape.inputs, self.T, self.B
        n = np.full(B, T) if inputs.lengths is None else np.asarray(inputs.lengths)
        on = np.arange(T)[:, None] < n
        da = self.da()
        back_h = da @ w_hh  # (T, B, H|P): what arrives at the step before
        e_h = np.zeros_like(back_h) if dy is None else np.where(on[..., None], dy, 0)
        # from here on in the order in which the steps are computed
        order = slice(None, None, -1) if inputs.reverse else slice(None)
        on, e_h, back_h = on[order], e_h[order], back_h[order]
        last = np.full(B, T - 1) if inputs.reverse else n - 1  # an empty row is never on
        e_h[last, np.arange(B)] += 0 if dh_n is None else dh_n
        e_h[:-1] += back_h[1:]
        e_c = back_c = np.zeros((T, B, 0))
        if self.f is not None:
            e_c, back_c = self._through_c(order, on, last, e_h, w_proj, dc_n)
        arrives, e = _norm(back_h, back_c)[1:], _norm(e_h, e_c)[1:]
        counts = on[1:] & on[:-1] & (e > 0) & (arrives > 0)  # where nothing is, nothing can be said
        e, arrives = np.where(counts, e, 1), np.where(counts, arrives, 1)
        excess = arrives / e - 1
        factor = np.zeros((T, B))
        factor[1:] = 2 * excess / (e * arrives) / B
        scaled = da[order] * factor[..., None].astype(da.dtype)
        dw = scaled.reshape(T * B, -1).T @ back_h.reshape(T * B, -1)
        return float((excess**2).sum() / B), dw

    def _through_c(self, order, on, last, e_h, w_proj, dc_n):
        """e_c, and what of it arrives at the step before, (T, B, H)."""
        after = self.tape.c[:-1] if self.tape.inputs.reverse else self.tape.c[1:]
        f, o, c = (a[order] for a in (self.f, self.o, after))
        slope = o * (1 - np.tanh(c) ** 2)
        e_c, back_c = np.zeros_like(f), np.empty_like(f)
        e_c[last, np.arange(self.B)] += 0 if dc_n is None else dc_n
        for t in reversed(range(self.T)):
            if t + 1 < self.T:
                e_c[t] += back_c[t + 1]
            dm = e_h[t] if w_proj is None else e_h[t] @ w_proj
            back_c[t] = np.where(on[t, :, None], f[t] * (e_c[t] + dm * slope[t]), 0)
        return e_c, back_c


def _norm(h, c):
    """The length of each (h, c), (T, B), in float64: squares of small errors underflow."""
    squares = (np.square(a, dtype=np.float64).sum(axis=2) for a in (h, c))
    return np.sqrt(sum(squares))
