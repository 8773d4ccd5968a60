# SPDX-License-Identifier: MIT
"""Why LSTMs: how far back in time gradients reach. Writes docs/gradient_flow.png.

    python docs/gradient_flow.py [PICTURE]

Needs the extra ``fastlstm[plot]``. A loss after the last step is differentiated with respect to
the state 0, 1, ... 100 steps before it, in networks as they are before any training:

* A simple recurrent network multiplies the gradient with its recurrent weights at each step. So it
  grows or shrinks exponentially: small weights make it vanish, large ones explode
  (Hochreiter 1991; Bengio, Simard & Frasconi 1994).
* In an LSTM it passes from c[t] to c[t-1] by a product with the forget gate alone. A gate that is
  half open halves it at each step; one that is open carries it (Hochreiter & Schmidhuber 1997;
  Gers, Schmidhuber & Cummins 2000). That is why the forget gate's bias should start above 0.
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import fastlstm as fl
from fastlstm import plot

T, B, I, H = 100, 8, 4, 64


def rnn(scale):
    """An RNN whose recurrent weights turn h and make it ``scale`` times as long."""
    layer = fl.RNN(I, H, dtype="float64", seed=0)
    turn, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((H, H)))
    layer.parameters()["weight_hh_l0"][...] = scale * turn
    return layer


def lstm(forget_bias):
    """An LSTM whose forget gates start at sigmoid(forget_bias) or so."""
    layer = fl.LSTM(I, H, dtype="float64", seed=0)
    layer.parameters()["bias_l0"][H : 2 * H] = forget_bias
    return layer


def main(path):
    """Draw it."""
    x = np.random.default_rng(1).standard_normal((T, B, I))
    flows = {
        "RNN, large weights:\nthe gradient explodes": rnn(2.0),
        "LSTM, forget gate open:\nit is carried": lstm(3.0),
        "RNN, small weights:\nit vanishes": rnn(0.8),
        "LSTM, forget gate half open:\nit vanishes too": lstm(0.0),
    }
    figure = Figure(figsize=(9, 4.4), layout="constrained")
    ax = plot.gradient_flow(flows, x, ax=figure.add_subplot())
    for line in ax.lines:
        if line.get_label().startswith("RNN"):
            line.set_linestyle("--")
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, labelspacing=1.2)
    ax.set_title("How much does the loss depend on what happened k steps ago?", loc="left")
    ax.set_xlabel("k, steps back in time")
    ax.set_ylabel("norm of the gradient, 1 at k = 0")
    figure.savefig(path, dpi=110)
    print(f"wrote {path}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_suffix(".png"))
