# SPDX-License-Identifier: MIT
"""Why LSTMs: how far back in time the gradient of a loss reaches.

A loss after the last step is differentiated with respect to the state k = 0, 1, ... steps before
it, in networks as they are before any training.
"""

# %% Some sequences of noise
import argparse

import numpy as np

import fastlstm as fl
from fastlstm.plot import gradient_flow, gradient_norms

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--steps", type=int, default=100)
parser.add_argument("--plot", metavar="FILE")
arguments = parser.parse_args()

B, I, H = 8, 4, 64
x = np.random.default_rng(1).standard_normal((arguments.steps, B, I))


# %% A simple recurrent network multiplies the gradient by its recurrent weights at each step
# So it shrinks or grows exponentially (Hochreiter 1991; Bengio, Simard & Frasconi 1994).
def rnn(scale):
    """An RNN whose recurrent weights turn h and make it ``scale`` times as long."""
    layer = fl.RNN(I, H, dtype="float64", seed=0)
    turn, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((H, H)))
    layer.parameters()["weight_hh_l0"][...] = scale * turn
    return layer


# %% In an LSTM it goes from c[t] to c[t-1] by a product with the forget gate
# A gate that is half open halves it at each step, one that is open carries it (Hochreiter &
# Schmidhuber 1997; Gers, Schmidhuber & Cummins 2000): why its bias should start above 0.
def lstm(forget_bias):
    """An LSTM whose forget gates start at sigmoid(forget_bias) or so."""
    layer = fl.LSTM(I, H, dtype="float64", seed=0)
    layer.parameters()["bias_l0"][H : 2 * H] = forget_bias
    return layer


flows = {
    "RNN, large weights:\nthe gradient explodes": rnn(2.0),
    "LSTM, forget gate open:\nit is carried": lstm(3.0),
    "RNN, small weights:\nit vanishes": rnn(0.8),
    "LSTM, forget gate half open:\nit vanishes too": lstm(0.0),
}
flows = {name: gradient_norms(layer, x) for name, layer in flows.items()}
lags = [k for k in (1, 10, 50, 100) if k <= arguments.steps]
print(f"{'norm of the gradient, 1 at k = 0':<34}", *(f"k = {k:<6}" for k in lags))
for name, norms in flows.items():
    print(f"{name.splitlines()[0].rstrip(':'):<34}", *(f"{norms[k]:<10.2g}" for k in lags))

# %% The picture
if arguments.plot:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.4), layout="constrained")
    ax = gradient_flow(flows, ax=figure.add_subplot())
    for line in ax.lines:
        if line.get_label().startswith("RNN"):
            line.set_linestyle("--")
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, labelspacing=1.2)
    ax.set_title("How much does the loss depend on what happened k steps ago?", loc="left")
    ax.set_xlabel("k, steps back in time")
    ax.set_ylabel("norm of the gradient, 1 at k = 0")
    figure.savefig(arguments.plot, dpi=110)
