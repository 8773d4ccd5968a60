# SPDX-License-Identifier: MIT
"""Stacks of GRU and RNN layers and what PyTorch computes for them; it is imported when called."""

import numpy as np
from comparison import tolerance
from siblings import Shape

import fastlstm as fl

KINDS = {
    "GRU": {},
    "RNN-tanh": {"nonlinearity": "tanh"},
    "RNN-relu": {"nonlinearity": "relu"},
}
# name -> arguments of the layer, lengths
STACKS = {
    "one": ({}, None),
    "no-bias": ({"bias": False}, None),
    "stacked": ({"num_layers": 3}, None),
    "bidirectional": ({"bidirectional": True}, None),
    "ragged": ({}, (2, 7, 1, 5)),
    "all": ({"num_layers": 2, "bidirectional": True}, (2, 7, 1, 5)),
    "batch-first": ({"num_layers": 2, "batch_first": True}, (7, 2, 4, 4)),
}


def draw_stack(kind, stack, dtype, seed=0):
    """The layer's class, its arguments, and the inputs of a pass by name; float32 numbers."""
    arguments, lengths = STACKS[stack]
    name, arguments = kind.split("-")[0], arguments | KINDS[kind]
    D, L = 1 + arguments.get("bidirectional", False), arguments.get("num_layers", 1)
    layer = getattr(fl, name)(5, 9, **arguments)
    rng = np.random.default_rng([seed, *f"{kind} {stack}".encode()])

    def normal(*shape):
        return rng.standard_normal(shape).astype("float32").astype(dtype)

    inputs = dict(x=normal(7, 4, 5), dy=normal(7, 4, 9 * D), h0=normal(L * D, 4, 9),
                  dh_n=normal(L * D, 4, 9), lengths=lengths)  # fmt: skip
    if layer.batch_first:
        inputs |= {name: inputs[name].swapaxes(0, 1) for name in ("x", "dy")}
    weights = {n: normal(*a.shape) / 3 for n, a in layer.state_dict().items()}
    return name, arguments, inputs, weights


def run_ours(name, arguments, inputs, weights, backend):
    """All results of our layer by name."""
    layer = getattr(fl, name)(5, 9, **arguments, dtype=inputs["x"].dtype, backend=backend)
    layer.load_state_dict(weights)
    y, h_n, tape = layer.forward(inputs["x"], inputs["h0"], inputs["lengths"])
    dx, dh0, grads = layer.backward(tape, inputs["dy"], inputs["dh_n"])
    return dict(y=y, h_n=h_n, dx=dx, dh0=dh0) | {f"d{n}": a for n, a in grads.items()}


def run_torch(name, arguments, inputs, weights):
    """All results of PyTorch's module by the names of ours."""
    import torch
    from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

    torch.set_num_threads(1)
    x, h0, lengths = (inputs[n] for n in ("x", "h0", "lengths"))
    theirs = getattr(torch.nn, name)(5, 9, **arguments, dtype=getattr(torch, x.dtype.name))
    theirs.load_state_dict({n: torch.tensor(a) for n, a in weights.items()})
    leaves = [torch.tensor(a, requires_grad=True) for a in (x, h0)]
    given, first = leaves[0], theirs.batch_first
    if lengths is not None:
        given = pack_padded_sequence(given, torch.tensor(lengths), first, enforce_sorted=False)
    y, h_n = theirs(given, leaves[1])
    if lengths is not None:
        y, _ = pad_packed_sequence(y, first, total_length=x.shape[1 if first else 0])
    upstream = [torch.tensor(inputs[n]) for n in ("dy", "dh_n")]
    torch.autograd.backward([y, h_n], upstream)
    results = dict(y=y, h_n=h_n, dx=leaves[0].grad, dh0=leaves[1].grad)
    results |= {f"d{n}": p.grad for n, p in theirs.named_parameters()}
    if name == "RNN":  # ours is the sum of their two, whose gradients are the same
        results = {
            n.replace("bias_ih", "bias"): a for n, a in results.items() if "bias_hh" not in n
        }
    return {n: a.detach().numpy() for n, a in results.items()}


def limit_of(arguments, dtype):
    """PyTorch's own rounding errors come on top of ours; a layer carries on those below it."""
    return 2 * arguments.get("num_layers", 1) * tolerance(dtype, Shape(B=4))


def run_onnxruntime(op, x, weights, h0, lengths, **attributes):
    """y and h_n of ONNX's GRU or RNN in ONNX Runtime, one layer forward in float32.

    ONNX has the gates of a GRU in the order z r h, and y as (T, D, B, H).
    """
    import onnxruntime
    from onnx import TensorProto, helper

    (T, B, _), H = x.shape, h0.shape[1]

    def gates(a):
        return a if op == "RNN" else a.reshape(3, H, -1)[[1, 0, 2]].reshape(a.shape)

    w_ih, w_hh, *biases = map(gates, weights)
    feeds = dict(X=x, W=w_ih[None], R=w_hh[None], B=np.concatenate(biases)[None],
                 sequence_lens=np.array(lengths, np.int32), initial_h=h0[None])  # fmt: skip
    node = helper.make_node(op, list(feeds), ["Y", "Y_h"], hidden_size=H, **attributes)
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in feeds.items()
    ]
    outputs = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s)
        for n, s in dict(Y=(T, 1, B, H), Y_h=(1, B, H)).items()
    ]
    model = helper.make_model(
        helper.make_graph([node], "cell", inputs, outputs),
        opset_imports=[helper.make_opsetid("", 22)], ir_version=10,
    )  # fmt: skip
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    y, h_n = session.run(None, feeds)
    return y[:, 0], h_n[0]
