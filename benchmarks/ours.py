# SPDX-License-Identifier: MIT
"""fastlstm, called as its users call it."""

from .engine import Call, Engine, streamed


class FastLSTM(Engine):
    """Ours: `lstm(x)` with an ordinary layer."""

    name = label = package = "fastlstm"
    dtypes = ("float32", "float64")
    whats = ("forward", "training", "step")
    shared = False

    def version(self):
        try:
            import fastlstm
        except ImportError:
            return None
        return fastlstm.__version__  # an in-place build has no metadata

    def set_threads(self, n):
        import fastlstm

        super().set_threads(n)
        if hasattr(fastlstm, "set_num_threads"):  # from the first version with threads on
            fastlstm.set_num_threads(n)

    def _layer(self, problem):
        import fastlstm

        case = problem.case
        lstm = fastlstm.LSTM(
            case.I, case.H, case.num_layers, bidirectional=case.bidirectional, dtype=problem.dtype
        )
        lstm.load_state_dict(problem.torch_state)
        if self.shared:
            lstm.parameters()
        return lstm

    def forward(self, problem, threads):
        lstm, x = self._layer(problem), problem.x

        def result():
            y, (h_n, c_n) = lstm(x)
            return {"y": y, "h_n": h_n, "c_n": c_n}

        return {"lstm(x)": Call(lambda: lstm(x), result)}

    def training(self, problem, threads):
        lstm, x, dy = self._layer(problem), problem.x, problem.dy

        def run():
            y, state, tape = lstm.forward(x)
            return y, state, lstm.backward(tape, dy)

        def result():
            y, (h_n, c_n), (dx, _, grads) = run()
            return {"y": y, "h_n": h_n, "c_n": c_n, "dx": dx, **grads}

        return {"forward + backward": Call(run, result)}

    def step(self, problem, threads):
        stream = self._layer(problem).stream(batch_size=problem.case.B)
        x_t, step = problem.x[0], stream.step
        return {"stream().step": Call(lambda: step(x_t), streamed(step, stream.reset, problem.x))}


class SharedFastLSTM(FastLSTM):
    """Ours after `lstm.parameters()`: others may write to the weights, so calls compare them."""

    name = label = "fastlstm-shared"
    whats = ("forward",)
    shared = True
