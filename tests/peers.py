# SPDX-License-Identifier: MIT
"""The same stack in PyTorch and in ONNX Runtime; both are imported when called."""

import numpy as np


def run_torch(problem):
    """All results of torch.nn.LSTM for a StackProblem, by name, as ``stacks.compose`` has them.

    bias_ih and bias_hh have the same gradient: the gradient of ``bias``.
    """
    import torch
    from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

    stack = problem.stack
    torch.set_num_threads(1)
    dtype = getattr(torch, problem.dtype.name)

    def leaf(a):
        return torch.tensor(a, requires_grad=True)

    lstm = torch.nn.LSTM(
        stack.I, stack.H, stack.L, bias=stack.bias, bidirectional=stack.bidirectional,
        proj_size=stack.P, dtype=dtype,
    )  # fmt: skip
    lstm.load_state_dict({name: torch.tensor(a) for name, a in problem.weights.items()})
    x, state = leaf(problem.x), problem.state and tuple(map(leaf, problem.state))
    if stack.lengths is None:
        y, last = lstm(x, state)
    else:
        packed = pack_padded_sequence(x, torch.tensor(stack.lengths), enforce_sorted=False)
        y, last = lstm(packed, state)
        y, _ = pad_packed_sequence(y, total_length=stack.T)
    upstream = [torch.tensor(a) for a in (problem.dy, *problem.dstate)]
    torch.autograd.backward([y, *last], upstream)
    results = dict(y=y, h_n=last[0], c_n=last[1], dx=x.grad)
    if state:
        results |= dict(dh0=state[0].grad, dc0=state[1].grad)
    for name, weight in lstm.named_parameters():
        if name.startswith("bias_hh"):
            other = getattr(lstm, name.replace("bias_hh", "bias_ih"))
            torch.testing.assert_close(weight.grad, other.grad)
        else:
            results["d" + name.replace("bias_ih", "bias")] = weight.grad
    return {name: a.detach().numpy() for name, a in results.items()}


def run_onnxruntime(problem):
    """y, h_n, c_n of ONNX Runtime for a StackProblem of one layer, in float32.

    ONNX has the gates in the order i o f c, and y as (T, D, B, H).
    """
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper

    stack = problem.stack
    i, f, g, o = range(4)

    def gates(name, suffix):
        a = problem.weights[f"{name}_{suffix}"]
        return a.reshape(4, stack.H, -1)[[i, o, f, g]].reshape(a.shape)

    suffixes = [suffix for _, _, suffix, _ in stack.cells()]
    feeds = dict(
        X=problem.x,
        W=np.stack([gates("weight_ih", s) for s in suffixes]),
        R=np.stack([gates("weight_hh", s) for s in suffixes]),
        initial_h=problem.state[0],
        initial_c=problem.state[1],
    )
    if stack.bias:
        b = [np.concatenate([gates("bias_ih", s), gates("bias_hh", s)]) for s in suffixes]
        feeds["B"] = np.stack(b)
    if stack.lengths is not None:
        feeds["sequence_lens"] = np.array(stack.lengths, np.int32)
    order = ["X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c"]
    node = helper.make_node(
        "LSTM", [name if name in feeds else "" for name in order], ["Y", "Y_h", "Y_c"],
        hidden_size=stack.H, direction="bidirectional" if stack.bidirectional else "forward",
    )  # fmt: skip
    types = {name: helper.np_dtype_to_tensor_dtype(a.dtype) for name, a in feeds.items()}
    inputs = [helper.make_tensor_value_info(n, types[n], a.shape) for n, a in feeds.items()]
    T, B, D, H = stack.T, stack.B, stack.D, stack.H
    shapes = dict(Y=(T, D, B, H), Y_h=(D, B, H), Y_c=(D, B, H))
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()]
    model = helper.make_model(
        helper.make_graph([node], "lstm", inputs, outputs),
        opset_imports=[helper.make_opsetid("", 22)],
        ir_version=10,
    )
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    y, h_n, c_n = session.run(None, feeds)
    return dict(y=y.transpose(0, 2, 1, 3).reshape(T, B, D * H), h_n=h_n, c_n=c_n)
