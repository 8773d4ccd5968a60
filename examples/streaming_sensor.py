# SPDX-License-Identifier: MIT
"""A sensor that never stops: learn one long recording, then watch the values as they come in.

The recording is a machine's vibration: two tones that drift, and noise. The network predicts the
next value; where it is wrong by much more than usual, something has happened.
"""

# %% A recording, from a seed
import argparse

import numpy as np

import fastlstm as fl

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--steps", type=int, default=8000)
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--plot", metavar="FILE")
arguments = parser.parse_args()


def vibration(steps, rng):
    """Two tones whose pitch wanders, and noise; about 1 in size."""
    pitch = 0.35 + 0.02 * np.cumsum(rng.normal(size=steps)) / np.sqrt(steps)
    phase = np.cumsum(pitch)
    tones = 0.7 * np.sin(phase) + 0.4 * np.sin(2.7 * phase + 1)
    return (tones + 0.03 * rng.normal(size=steps)).astype(np.float32)


rng = np.random.default_rng(0)
recording = vibration(arguments.steps, rng)
x, y = recording[None, :-1, None], recording[None, 1:, None]  # one series: (1, T, 1)

# %% Stateful training: pieces of 50 steps in order, the state carried from each to the next
model = fl.Sequential([fl.LSTM(1, 24, batch_first=True, seed=0), fl.Dense(24, 1, seed=1)])
history = fl.fit(
    model, x, y, epochs=arguments.epochs, bptt=50, optimizer=fl.optim.Adam(0.01),
    schedule="cosine", clip_norm=1.0, validation_fraction=0.2, seed=0,
)  # fmt: skip
persistence = np.mean(np.diff(recording) ** 2)
print(f"squared error of the next value: {history['val_loss'][-1]:.4f} on the last fifth,")
print(f"{persistence:.4f} by saying that it stays, {0.03**2:.4f} is the noise alone")

# %% The same network, step by step: the layer as a stream, the head by hand
lstm, head = model.modules
stream = lstm.freeze().stream()
state = np.empty(24, np.float32)
fresh = vibration(2000, rng)
fresh[1500:1530] *= 0.2  # for 30 steps the machine runs without load
errors = np.zeros(len(fresh))
for t in range(len(fresh) - 1):
    stream.step(fresh[t : t + 1], out=state)
    errors[t + 1] = abs(head(state)[0] - fresh[t + 1])

# %% The alarm: an error far beyond those of the first half (the first steps warm the state up)
usual = errors[100:1000]
limit = usual.mean() + 6 * usual.std()
alarms = np.flatnonzero(errors[100:] > limit) + 100
print(f"\nalarms of {len(fresh)} new values: {len(alarms)}, the first at {alarms[:5].tolist()}")
print("the load was gone from 1500 to 1529")

# %% The picture
if arguments.plot:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    above.plot(fresh, color="black", linewidth=0.6)
    above.set_title("what comes in")
    below.plot(errors, linewidth=0.6)
    below.axhline(limit, color="C3", linestyle="--")
    below.set_title("error of the next value, and the limit of the alarm")
    figure.savefig(arguments.plot, dpi=100)
    print(f"wrote {arguments.plot}")
