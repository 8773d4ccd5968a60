# SPDX-License-Identifier: MIT
"""An LSTM as a good NumPy user writes it: the loop over time in Python, everything else in arrays.

The input projection is one product over all steps, activations run in place, the gates of a sigmoid
lie side by side (order i f o g), and the weight gradients are one product each after the loop.
"""

import numpy as np


def _sigmoid(a):
    """Sigmoid of `a`, in place."""
    np.negative(a, out=a)
    np.exp(a, out=a)
    a += 1
    np.reciprocal(a, out=a)


class NumpyCell:
    """One layer in one direction.

    Parameters
    ----------
    w_ih : ndarray (4H, I), w_hh : ndarray (4H, H), b : ndarray (4H,) - gate order i f g o
    reverse : bool - run from the last step to the first; y stays aligned with x
    """

    def __init__(self, w_ih, w_hh, b, reverse=False):
        H = w_hh.shape[1]
        order = np.r_[: 2 * H, 3 * H : 4 * H, 2 * H : 3 * H]
        self.w_x = np.ascontiguousarray(w_ih[order].T)  # (I, 4H)
        self.w_h = np.ascontiguousarray(w_hh[order].T)  # (H, 4H)
        self.w_h_rows = np.ascontiguousarray(w_hh[order])  # (4H, H), for the way back
        self.b = b[order]
        self.order, self.reverse, self.H = order, reverse, H

    def step(self, x_t, h, c):
        """The next (h, c), each (B, H), after the input x_t (B, I)."""
        H = self.H
        a = x_t @ self.w_x
        a += self.b
        a += h @ self.w_h
        _sigmoid(a[:, : 3 * H])
        np.tanh(a[:, 3 * H :], out=a[:, 3 * H :])
        c = a[:, H : 2 * H] * c
        c += a[:, :H] * a[:, 3 * H :]
        h = np.tanh(c)
        h *= a[:, 2 * H : 3 * H]
        return h, c

    def forward(self, x, save=False):
        """y (T, B, H), the final (h, c), and with `save` what `backward` needs."""
        T, B, I = x.shape
        H = self.H
        x = x[::-1] if self.reverse else x
        gates = x.reshape(T * B, I) @ self.w_x
        gates += self.b
        gates = gates.reshape(T, B, 4 * H)
        y = np.empty((T, B, H), x.dtype)
        cells = np.empty((T, B, H), x.dtype) if save else None
        product = np.empty((B, 4 * H), x.dtype)
        h, c, ig = (np.zeros((B, H), x.dtype) for _ in range(3))
        for t in range(T):
            a = gates[t]
            np.matmul(h, self.w_h, out=product)
            a += product
            _sigmoid(a[:, : 3 * H])
            g = a[:, 3 * H :]
            np.tanh(g, out=g)
            c *= a[:, H : 2 * H]
            np.multiply(a[:, :H], g, out=ig)
            c += ig
            h = y[t]
            np.tanh(c, out=h)
            h *= a[:, 2 * H : 3 * H]
            if save:
                cells[t] = c
        tape = (x, gates, cells, y) if save else None
        return (y[::-1] if self.reverse else y), (h.copy(), c), tape

    def backward(self, tape, dy):
        """dx (T, B, I) and the gradients of w_ih, w_hh, b, in gate order i f g o."""
        x, gates, cells, y = tape
        T, B, H = y.shape
        dy = dy[::-1] if self.reverse else dy
        sigmoids, g = gates[..., : 3 * H], gates[..., 3 * H :]
        dgates = np.empty_like(gates)  # first the slopes of the activations, then the gradients
        np.subtract(1, sigmoids, out=dgates[..., : 3 * H])
        dgates[..., : 3 * H] *= sigmoids
        np.subtract(1, g * g, out=dgates[..., 3 * H :])
        tanh_c = np.tanh(cells)
        dc_dh = gates[..., 2 * H : 3 * H] * (1 - tanh_c * tanh_c)
        dc, dh = np.zeros((2, B, H), x.dtype)
        for t in reversed(range(T)):
            dh += dy[t]
            dc += dh * dc_dh[t]
            da = dgates[t]
            da[:, :H] *= dc * g[t]
            da[:, H : 2 * H] *= dc * cells[t - 1] if t else 0
            da[:, 2 * H : 3 * H] *= dh * tanh_c[t]
            da[:, 3 * H :] *= dc * gates[t, :, :H]
            dc *= gates[t, :, H : 2 * H]
            np.matmul(da, self.w_h_rows, out=dh)
        rows = dgates.reshape(T * B, 4 * H)
        dx = (rows @ self.w_x.T).reshape(x.shape)
        dw_ih = rows.T @ x.reshape(T * B, -1)
        dw_hh = rows[B:].T @ y[:-1].reshape((T - 1) * B, H)
        grads = tuple(self._unordered(d) for d in (dw_ih, dw_hh, rows.sum(0)))
        return (dx[::-1] if self.reverse else dx), grads

    def _unordered(self, d):
        out = np.empty_like(d)
        out[self.order] = d
        return out


class NumpyLSTM:
    """Layers and directions of `NumpyCell`, with the weights of a `cases.Problem`."""

    def __init__(self, problem):
        self.case = problem.case
        self.cells = [
            (layer, direction, suffix, NumpyCell(*problem.cell_weights(suffix), bool(direction)))
            for layer, direction, suffix, _ in problem.case.cells()
        ]

    def forward(self, x, save=False):
        """y (T, B, D*H), (h_n, c_n), tapes."""
        states, tapes, outputs = [], [], []
        for _, direction, _, cell in self.cells:
            y, state, tape = cell.forward(x, save)
            states.append(state)
            tapes.append(tape)
            outputs.append(y)
            if direction == self.case.D - 1:
                x = outputs[0] if len(outputs) == 1 else np.concatenate(outputs, axis=-1)
                outputs = []
        h_n, c_n = (np.stack(s) for s in zip(*states, strict=True))
        return x, (h_n, c_n), tapes

    def backward(self, tapes, dy):
        """dx (T, B, I) and a dict of gradients by weight name."""
        H, grads, dx = self.case.H, {}, None
        for (_, direction, suffix, cell), tape in zip(self.cells[::-1], tapes[::-1], strict=True):
            half = dy[..., direction * H : (direction + 1) * H]
            dx_direction, (dw_ih, dw_hh, db) = cell.backward(tape, half)
            dx = dx_direction if dx is None else dx + dx_direction
            grads |= {
                f"weight_ih_{suffix}": dw_ih,
                f"weight_hh_{suffix}": dw_hh,
                f"bias_{suffix}": db,
            }
            if direction == 0:
                dy, dx = dx, None
        return dy, grads
