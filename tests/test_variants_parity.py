# SPDX-License-Identifier: MIT
"""The variants that ONNX's LSTM can say: the same numbers as ONNX Runtime, live."""

import numpy as np
import pytest
from cases import Case, make_problem

from fastlstm import reference
from fastlstm.spec import Spec

HARD = ("hard_sigmoid", 0.2, 0.5)
SPECS = (
    Spec(),
    Spec(peepholes="ifo"),
    Spec(coupled=True),
    Spec(coupled=True, peepholes="io"),
    Spec(clip=0.8),
    Spec(clip=0.8, peepholes="ifo"),
    Spec(clip=0.8, peepholes="io", coupled=True),
    Spec(gate=HARD),
    Spec(gate=HARD, candidate="relu", output=("leaky_relu", 0.1)),
    Spec(candidate="softsign", output=("scaled_tanh", 1.7, 0.6)),
    Spec(candidate=("elu", 1.5), output="softplus"),
    Spec(candidate=("thresholded_relu", 0.7), output=("affine", -0.8, 0.3)),
)
LAYOUTS = {
    "forward": Case(T=9, B=4, I=5, H=6),
    "reverse": Case(T=9, B=4, I=5, H=6, reverse=True),
    "ragged": Case(T=9, B=4, I=5, H=6, lengths=(3, 9, 1, 6)),
    "ragged-reverse": Case(T=9, B=4, I=5, H=6, lengths=(3, 9, 1, 6), reverse=True),
}
ONNX_GATES = [0, 3, 1, 2]  # i o f c


def activations_of(spec):
    """The attributes activations, activation_alpha, activation_beta for f, g, h."""
    names, alpha, beta = [], [], []
    for value in (spec.gate, spec.candidate, spec.output):
        name, *numbers = (value,) if isinstance(value, str) else value
        names.append("".join(part.capitalize() for part in name.split("_")))
        alpha += numbers[:1]
        beta += numbers[1:]
    return dict(activations=names, activation_alpha=alpha, activation_beta=beta)


def run_onnxruntime(problem):
    """y, h_n, c_n of ONNX Runtime for one layer in one direction."""
    import onnxruntime
    from onnx import TensorProto, helper

    case, spec, H = problem.case, problem.case.spec, problem.case.H

    def gates(a):
        return a.reshape(4, H, -1)[ONNX_GATES].reshape(1, *a.shape)

    feeds = dict(X=problem.x, W=gates(problem.w_ih), R=gates(problem.w_hh))
    b = gates(problem.b)
    feeds["B"] = np.concatenate([b, np.zeros_like(b)], axis=1)
    feeds["initial_h"], feeds["initial_c"] = (a[None] for a in problem.state)
    if case.lengths is not None:
        feeds["sequence_lens"] = np.array(case.lengths, np.int32)
    if spec.peepholes:
        p = [problem.w_peephole["ifo".index(k)] * (k in spec.peepholes) for k in "iof"]
        feeds["P"] = np.concatenate(p)[None]
    order = ["X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"]
    attributes = dict(input_forget=1) if spec.coupled else {}
    attributes |= dict(clip=spec.clip) if spec.clip else {}
    attributes |= {name: value for name, value in activations_of(spec).items() if value}
    node = helper.make_node(
        "LSTM", [name if name in feeds else "" for name in order], ["Y", "Y_h", "Y_c"],
        hidden_size=H, direction="reverse" if case.reverse else "forward", **attributes,
    )  # fmt: skip
    types = {name: helper.np_dtype_to_tensor_dtype(a.dtype) for name, a in feeds.items()}
    inputs = [helper.make_tensor_value_info(n, types[n], a.shape) for n, a in feeds.items()]
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in node.output]
    model = helper.make_model(
        helper.make_graph([node], "lstm", inputs, outputs),
        opset_imports=[helper.make_opsetid("", 22)],
        ir_version=10,
    )
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    y, h_n, c_n = session.run(None, feeds)
    return dict(y=y[:, 0], h_n=h_n[0], c_n=c_n[0])


@pytest.mark.parity
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("spec", SPECS, ids=repr)
def test_variants_forward_matches_onnxruntime(spec, layout):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    case = Case(**vars(LAYOUTS[layout]) | dict(spec=spec))
    problem = make_problem(case, "float32")
    answer = run_onnxruntime(problem)
    y, (h_n, c_n), _ = reference.lstm_forward(**problem.forward())
    for name, a in dict(y=y, h_n=h_n, c_n=c_n).items():
        # 1e-6 of each tensor's largest number: its tanh and sigmoid are good to about 3e-7
        atol = 1e-6 * max(1, np.abs(a).max())
        np.testing.assert_allclose(answer[name], a, rtol=0, atol=atol, err_msg=f"{name} of {case}")
