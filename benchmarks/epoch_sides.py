# SPDX-License-Identifier: MIT
"""The tutorial's network in fastlstm, PyTorch and Keras: the same weights, data and steps.

4 x LSTM of 45 units, dropout 0.2 between the layers and before the dense head, 1216 windows of 40
values, batches of 32, squared error, Adam. Every side takes its weights from the same file.
"""

import time

import numpy as np

UNITS, LAYERS, STEPS, WINDOWS, BATCH, RATE = 45, 4, 40, 1216, 32, 1e-3


def problem():
    """x (n, T, 1), a view of the series, and y (n, 1), float32."""
    series = np.cumsum(np.random.default_rng(0).normal(size=WINDOWS + STEPS)).astype(np.float32)
    series /= np.abs(series).max()
    windows = np.lib.stride_tricks.sliding_window_view(series, STEPS + 1)
    return windows[:, :STEPS, None], windows[:, STEPS:]


class Fastlstm:
    """fastlstm.fit, as a user calls it."""

    package = "fastlstm"

    def __init__(self, threads):
        import fastlstm as fl

        self.fl = fl
        fl.set_num_threads(threads)

    def network(self, dropout):
        """A new Sequential; the weights are those of the seeds."""
        fl = self.fl
        lstm = fl.LSTM(1, UNITS, LAYERS, dropout=dropout, batch_first=True, seed=0)
        head = fl.Dense(UNITS, 1, seed=1)
        return fl.Sequential([lstm, fl.LastState(), fl.Dropout(dropout), head])

    def build(self, dropout, weights):
        """Make the network, ready to train."""
        self.model, self.adam = self.network(dropout), self.fl.optim.Adam(RATE)
        self.x, self.y = problem()

    def epoch(self, shuffle):
        """Train once on everything."""
        self.fl.fit(
            self.model, self.x, self.y, epochs=1, optimizer=self.adam, batch_size=BATCH,
            shuffle=shuffle, seed=0, progress=False,
        )  # fmt: skip

    def predict(self):
        """(n, 1), dropout off."""
        return self.model.predict(self.x)

    def share(self):
        """The part of an epoch that is not in the recurrent layers' loops, forward and backward."""
        from fastlstm import recurrent

        inside, saved = 0.0, {}

        def timed(function):
            def call(*arguments):
                nonlocal inside
                start = time.thread_time()
                try:
                    return function(*arguments)
                finally:
                    inside += time.thread_time() - start

            return call

        for name in ("stack_forward", "stack_backward"):
            saved[name] = getattr(recurrent, name)
            setattr(recurrent, name, timed(saved[name]))
        try:
            start = time.thread_time()
            self.epoch(True)
            return 1 - inside / (time.thread_time() - start)
        finally:
            for name, function in saved.items():
                setattr(recurrent, name, function)


class Torch:
    """torch.nn.LSTM and a loop over batches of tensors."""

    package = "torch"

    def __init__(self, threads):
        import torch

        self.torch = torch
        torch.set_num_threads(threads)

    def build(self, dropout, weights):
        torch = self.torch
        self.lstm = torch.nn.LSTM(1, UNITS, LAYERS, dropout=dropout, batch_first=True)
        self.head = torch.nn.Sequential(torch.nn.Dropout(dropout), torch.nn.Linear(UNITS, 1))
        tensors = {name: torch.tensor(a) for name, a in weights.items()}
        own = {name.removeprefix("0."): a for name, a in tensors.items() if name[0] == "0"}
        self.lstm.load_state_dict(own)
        self.head[1].load_state_dict({n: tensors[f"3.{n}"] for n in ("weight", "bias")})
        for name, w in self.lstm.named_parameters():
            # Its two biases are trained both, and so take double steps: not in the comparison.
            w.requires_grad_(not name.startswith("bias_hh") or dropout > 0)
        parameters = [*self.lstm.parameters(), *self.head.parameters()]
        self.adam = torch.optim.Adam(parameters, RATE)
        self.x, self.y = (torch.tensor(np.ascontiguousarray(a)) for a in problem())

    def epoch(self, shuffle):
        torch = self.torch
        self.lstm.train(), self.head.train()
        order = torch.randperm(WINDOWS) if shuffle else torch.arange(WINDOWS)
        for rows in order.split(BATCH):
            self.adam.zero_grad(set_to_none=True)
            p = self.head(self.lstm(self.x[rows])[0][:, -1])
            torch.nn.functional.mse_loss(p, self.y[rows]).backward()
            self.adam.step()

    def predict(self):
        self.lstm.eval(), self.head.eval()
        with self.torch.inference_mode():
            return self.head(self.lstm(self.x)[0][:, -1]).numpy()


class Keras:
    """keras.Sequential on TensorFlow, its fit."""

    package = "keras"

    def __init__(self, threads):
        import os

        os.environ.setdefault("KERAS_BACKEND", "tensorflow")
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
        import keras

        self.keras = keras

    def build(self, dropout, weights):
        from fastlstm.weights import to_layout

        layers, model = self.keras.layers, [self.keras.Input((STEPS, 1))]
        for k in range(LAYERS):
            model += [layers.LSTM(UNITS, return_sequences=k < LAYERS - 1), layers.Dropout(dropout)]
        self.model = self.keras.Sequential([*model, layers.Dense(1)])
        for k in range(LAYERS):
            ih, hh, b = (weights[f"0.{n}_l{k}"] for n in ("weight_ih", "weight_hh", "bias_ih"))
            arrays = to_layout("keras", {"w_ih": ih, "w_hh": hh, "b": b})
            self.model.layers[2 * k].set_weights(list(arrays.values()))
        self.model.layers[-1].set_weights([weights["3.weight"].T, weights["3.bias"]])
        adam = self.keras.optimizers.Adam(RATE, epsilon=1e-8)
        self.model.compile(optimizer=adam, loss="mse")
        self.x, self.y = map(np.ascontiguousarray, problem())

    def epoch(self, shuffle):
        self.model.fit(self.x, self.y, BATCH, epochs=1, shuffle=shuffle, verbose=0)

    def predict(self):
        return self.model.predict(self.x, verbose=0)


SIDES = {"fastlstm": Fastlstm, "torch": Torch, "keras": Keras}
