# SPDX-License-Identifier: MIT
"""The others, each as its own users run it at its best: weights prepacked at load, results written
where they do not need to be copied, no gradients kept in inference.

An engine's `calls` gives one or more ways to do the same job; each is checked against
fastlstm.reference, and the fastest is the one that counts (`worker.py`). None is handicapped to
flatter ours; what an engine cannot do it leaves out.
"""

import numpy as np

from .engine import Call, Engine, streamed
from .numpy_loop import NumpyLSTM
from .ours import FastLSTM, SharedFastLSTM


class NumPy(Engine):
    """The loop over time in Python that fastlstm replaces."""

    name, label, package = "numpy", "NumPy loop", "numpy"
    dtypes = ("float32", "float64")
    whats = ("forward", "training", "step")

    def forward(self, problem, threads):
        lstm, x = NumpyLSTM(problem), problem.x

        def result():
            y, (h_n, c_n), _ = lstm.forward(x)
            return {"y": y, "h_n": h_n, "c_n": c_n}

        return {"loop": Call(lambda: lstm.forward(x), result)}

    def training(self, problem, threads):
        lstm, x, dy = NumpyLSTM(problem), problem.x, problem.dy

        def run():
            y, state, tapes = lstm.forward(x, save=True)
            return y, state, lstm.backward(tapes, dy)

        def result():
            y, (h_n, c_n), (dx, grads) = run()
            return {"y": y, "h_n": h_n, "c_n": c_n, "dx": dx, **grads}

        return {"loop": Call(run, result)}

    def step(self, problem, threads):
        ((*_, cell),) = NumpyLSTM(problem).cells
        zeros = np.zeros((problem.case.B, problem.case.H), problem.dtype)
        state = [zeros, zeros]

        def reset():
            state[:] = zeros, zeros

        def step(x_t):
            state[:] = cell.step(x_t, *state)
            return state[0]

        x_t = problem.x[0]
        return {"loop": Call(lambda: step(x_t), streamed(step, reset, problem.x))}


class PyTorch(Engine):
    """torch.nn.LSTM, eager: eval and inference_mode forward, autograd for training."""

    name, label, package = "pytorch", "PyTorch", "torch"
    dtypes = ("float32", "float64")
    whats = ("forward", "training", "step")

    def set_threads(self, n):
        import torch

        torch.set_num_threads(n)

    def _module(self, problem):
        import torch

        case = problem.case
        lstm = torch.nn.LSTM(
            case.I,
            case.H,
            case.num_layers,
            bidirectional=case.bidirectional,
            dtype=getattr(torch, problem.dtype),
        )
        lstm.load_state_dict({k: torch.tensor(v) for k, v in problem.torch_state.items()})
        return lstm

    def _cell(self, problem):
        import torch

        state = self._module(problem).state_dict()
        cell = torch.nn.LSTMCell(problem.case.I, problem.case.H, dtype=state["weight_ih_l0"].dtype)
        cell.load_state_dict({name.removesuffix("_l0"): v for name, v in state.items()})
        return cell

    def _ways(self, problem):
        """Functions x (T, B, I) -> (y, h_n, c_n), and their modules, by name.

        For a single step nn.LSTMCell is 2 to 20 times faster than nn.LSTM, which goes to oneDNN
        and repacks the weights every time (Zen 4, 2026-11).
        """
        lstm = self._module(problem)

        def whole(x):
            y, (h_n, c_n) = lstm(x)
            return y, h_n, c_n

        ways = {"nn.LSTM": (whole, lstm)}
        if problem.case.T == 1 and problem.case.single:
            cell = self._cell(problem)

            def one(x):
                h, c = cell(x[0])
                return h[None], h[None], c[None]

            ways["nn.LSTMCell"] = (one, cell)
        return ways

    def forward(self, problem, threads):
        import torch

        x = torch.tensor(problem.x)

        def call(function, module):
            module.eval()

            def run():
                with torch.inference_mode():
                    return function(x)

            def result():
                return {n: t.numpy() for n, t in zip(("y", "h_n", "c_n"), run(), strict=True)}

            return Call(run, result)

        return {name: call(*way) for name, way in self._ways(problem).items()}

    def training(self, problem, threads):
        import torch

        x = torch.tensor(problem.x).requires_grad_()
        dy = torch.tensor(problem.dy)

        def call(function, module):
            parameters = dict(module.train().named_parameters())
            wanted = (x, *parameters.values())

            def run():
                outputs = function(x)
                return outputs, torch.autograd.grad(outputs[0], wanted, dy)

            def result():
                outputs, (dx, *grads) = run()
                found = dict(zip(("y", "h_n", "c_n"), outputs, strict=True)) | {"dx": dx}
                for name, grad in zip(parameters, grads, strict=True):
                    name = name.replace("bias_ih", "bias")
                    found[name if "_l" in name else f"{name}_l0"] = grad
                return {name: tensor.detach().numpy() for name, tensor in found.items()}

            return Call(run, result)

        return {f"{name} + autograd": call(*way) for name, way in self._ways(problem).items()}

    def step(self, problem, threads):
        import torch

        xs = torch.tensor(problem.x)
        lstm, cell = self._module(problem).eval(), self._cell(problem).eval()
        cell_step, cell_reset = self._carrying(cell, lambda state: (state[0], state))
        lstm_step, lstm_reset = self._carrying(lstm, lambda output: output)
        x_t, x_row = xs[0], xs[:1]  # (B, I), (1, B, I)
        return {
            "nn.LSTMCell": Call(
                lambda: cell_step(x_t), streamed(lambda x: cell_step(x).numpy(), cell_reset, xs)
            ),
            "nn.LSTM": Call(
                lambda: lstm_step(x_row),
                streamed(lambda x: lstm_step(x[None])[0].numpy(), lstm_reset, xs),
            ),
        }

    @staticmethod
    def _carrying(module, split):
        """A step that keeps the module's state from call to call, and how to reset it."""
        import torch

        state = None

        def reset():
            nonlocal state
            state = None

        def step(x):
            nonlocal state
            with torch.inference_mode():
                y, state = split(module(x, state))
            return y

        return step, reset


class OnnxRuntime(Engine):
    """A session on constant weights; plain `run`, and bound buffers where that is faster."""

    name, label, package = "onnxruntime", "ONNX Runtime", "onnxruntime"

    def _session(self, problem, threads, carry_state=False):
        import onnxruntime

        from .onnx_graph import lstm_model

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        return onnxruntime.InferenceSession(
            lstm_model(problem, carry_state), options, providers=["CPUExecutionProvider"]
        )

    def forward(self, problem, threads):
        import onnxruntime

        session, x = self._session(problem, threads), problem.x
        names = ["y", "h_n", "c_n"]
        feed = {"x": x}
        binding = session.io_binding()
        binding.bind_ortvalue_input("x", onnxruntime.OrtValue.ortvalue_from_numpy(x))
        case = problem.case
        final = (case.num_layers * case.D, case.B, case.H)
        bound = {}
        for name, shape in zip(
            names, ((case.T, case.B, case.D * case.H), final, final), strict=True
        ):
            bound[name] = onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, np.float32)
            binding.bind_ortvalue_output(name, bound[name])

        def run_bound():
            session.run_with_iobinding(binding)

        def result_bound():
            run_bound()
            return {name: value.numpy() for name, value in bound.items()}

        def result():
            return dict(zip(names, session.run(names, feed), strict=True))

        return {
            "run": Call(lambda: session.run(names, feed), result),
            "run_with_iobinding": Call(run_bound, result_bound),
        }

    def step(self, problem, threads):
        session = self._session(problem, threads, carry_state=True)
        zeros = np.zeros((1, problem.case.B, problem.case.H), np.float32)
        feed = {"h_0": zeros, "c_0": zeros}
        names = ["h_n", "c_n"]  # of one step, y is h_n

        def reset():
            feed.update(h_0=zeros, c_0=zeros)

        def step(x):  # x (1, B, I)
            feed["x"] = x
            feed["h_0"], feed["c_0"] = session.run(names, feed)
            return feed["h_0"]

        x_row = problem.x[:1]
        bound_step, bound_reset = self._bound_step(session, zeros, x_row)
        return {
            "run": Call(
                lambda: step(x_row), streamed(lambda x: step(x[None])[0], reset, problem.x)
            ),
            "run_with_iobinding": Call(
                lambda: bound_step(x_row),
                streamed(lambda x: bound_step(x[None])[0], bound_reset, problem.x),
            ),
        }

    @staticmethod
    def _bound_step(session, zeros, x_row):
        """A step on bound buffers: two bindings by turns, each one's output the other's input."""
        import onnxruntime

        def buffer_of(array):  # an OrtValue on the CPU shares the array it is made from
            return onnxruntime.OrtValue.ortvalue_from_numpy(array.copy())

        x_value = buffer_of(x_row)
        states = [(buffer_of(zeros), buffer_of(zeros)) for _ in range(2)]
        bindings = []
        for here in (0, 1):
            binding = session.io_binding()
            binding.bind_ortvalue_input("x", x_value)
            for index, name in enumerate("hc"):
                binding.bind_ortvalue_input(f"{name}_0", states[here][index])
                binding.bind_ortvalue_output(f"{name}_n", states[1 - here][index])
            bindings.append(binding)
        turn = [0]

        def reset():
            for value in states[turn[0]]:
                value.update_inplace(zeros)

        def step(x):
            x_value.update_inplace(x)
            session.run_with_iobinding(bindings[turn[0]])
            turn[0] = 1 - turn[0]
            return states[turn[0]][0].numpy()

        return step, reset


class OpenVINO(Engine):
    """The ONNX model compiled for latency in float32, its tensors shared and not copied."""

    name, label, package = "openvino", "OpenVINO", "openvino"

    def _request(self, problem, threads, carry_state=False):
        import openvino

        from .onnx_graph import lstm_model

        core = openvino.Core()
        model = core.read_model(lstm_model(problem, carry_state))
        compiled = core.compile_model(
            model,
            "CPU",
            {
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": threads,
                "INFERENCE_PRECISION_HINT": "f32",  # its default here may be bfloat16
            },
        )
        return compiled.create_infer_request()

    def forward(self, problem, threads):
        import openvino

        request = self._request(problem, threads)
        x = problem.x.copy()  # a shared tensor has to be writeable
        request.set_tensor("x", openvino.Tensor(x, shared_memory=True))

        def result():
            request.infer(share_outputs=True)
            return {name: request.get_tensor(name).data for name in ("y", "h_n", "c_n")}

        return {"infer": Call(lambda: request.infer(share_outputs=True), result, (x,))}

    def step(self, problem, threads):
        import openvino

        request = self._request(problem, threads, carry_state=True)
        zeros = np.zeros((1, problem.case.B, problem.case.H), np.float32)
        x, h, c = problem.x[:1].copy(), zeros.copy(), zeros.copy()
        for name, array in (("x", x), ("h_0", h), ("c_0", c)):
            request.set_tensor(name, openvino.Tensor(array, shared_memory=True))
        h_n, c_n = (request.get_tensor(name).data for name in ("h_n", "c_n"))

        def reset():
            h[:] = c[:] = 0

        def step(x_t):
            x[0] = x_t
            request.infer(share_outputs=True)
            h[:], c[:] = h_n, c_n
            return h[0]

        x_t = problem.x[0]
        return {"infer": Call(lambda: step(x_t), streamed(step, reset, problem.x))}


#: In the order of the tables. The "peers" of a ratio are those of `PEERS`.
ENGINES = {
    engine.name: engine
    for engine in (FastLSTM(), SharedFastLSTM(), PyTorch(), OnnxRuntime(), OpenVINO(), NumPy())
}
OURS = "fastlstm"
PEERS = ("pytorch", "onnxruntime", "openvino")
