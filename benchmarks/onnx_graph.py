# SPDX-License-Identifier: MIT
"""The ONNX model of a problem, as an exporter would write it: layout 0, weights constant."""

import numpy as np

_TO_IOFC = [0, 3, 1, 2]  # blocks of i f g o -> ONNX's i o f c


def _to_onnx(weight):
    blocks = weight.reshape(4, -1, *weight.shape[1:])
    return blocks[_TO_IOFC].reshape(weight.shape)


def lstm_model(problem, carry_state=False):
    """A serialised model x (T, B, I) -> y (T, B, D*H), h_n and c_n (L*D, B, H).

    Parameters
    ----------
    problem : cases.Problem
    carry_state : bool
        Also take `h_0` and `c_0` (1, B, H): for the step of a stream (one layer, one direction).

    Returns
    -------
    bytes
    """
    from onnx import TensorProto, helper, numpy_helper

    case = problem.case
    T, B, I, H, D = 1 if carry_state else case.T, case.B, case.I, case.H, case.D
    nodes, constants = [], []

    def constant(name, array):
        constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(kind, inputs, outputs, **attributes):
        nodes.append(helper.make_node(kind, inputs, outputs, **attributes))

    layer_input, finals = "x", []
    state = ["", "h_0", "c_0"] if carry_state else []
    merged_shape = constant("merged_shape", np.array([T, B, D * H], np.int64))
    for layer in range(case.num_layers):
        cells = [problem.cell_weights(s) for at, _, s, _ in case.cells() if at == layer]
        w = constant(f"W{layer}", np.stack([_to_onnx(w_ih) for w_ih, _, _ in cells]))
        r = constant(f"R{layer}", np.stack([_to_onnx(w_hh) for _, w_hh, _ in cells]))
        b = [np.concatenate([_to_onnx(b), np.zeros_like(b)]) for *_, b in cells]
        b = constant(f"B{layer}", np.stack(b))
        raw, h_n, c_n = f"Y{layer}", f"h_n{layer}", f"c_n{layer}"
        node(
            "LSTM",
            [layer_input, w, r, b, *state],
            [raw, h_n, c_n],
            hidden_size=H,
            direction="bidirectional" if D == 2 else "forward",
        )
        finals.append((h_n, c_n))
        layer_input = "y" if layer == case.num_layers - 1 else f"y{layer}"
        if D == 2:  # (T, D, B, H) -> (T, B, D*H)
            node("Transpose", [raw], [f"T{layer}"], perm=[0, 2, 1, 3])
            raw = f"T{layer}"
        node("Reshape", [raw, merged_shape], [layer_input])
    for index, name in enumerate(("h_n", "c_n")):
        parts = [final[index] for final in finals]
        node(
            "Concat" if len(parts) > 1 else "Identity",
            parts,
            [name],
            **({"axis": 0} if len(parts) > 1 else {}),
        )

    def value(name, *shape):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    final_shape = (case.num_layers * D, B, H)
    inputs = [value("x", T, B, I)]
    if carry_state:
        inputs += [value("h_0", *final_shape), value("c_0", *final_shape)]
    outputs = [value("y", T, B, D * H), value("h_n", *final_shape), value("c_n", *final_shape)]
    graph = helper.make_graph(nodes, "lstm", inputs, outputs, initializer=constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return model.SerializeToString()
