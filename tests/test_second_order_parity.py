# SPDX-License-Identifier: MIT
"""lstm_jvp and lstm_hvp against PyTorch's double backward, live."""

import numpy as np
import pytest
from cases import Case, make_problem
from comparison import assert_matches
from test_second_order import direction, hvp, jvp, options, primals_of

from fastlstm import Spec, _second_order

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

CASES = (
    Case(),
    Case(bias=False, reverse=True),
    Case(P=4, lengths=(4, 7, 1)),
    Case(lengths=(4, 7, 1), reverse=True, spec=Spec(peepholes="ifo")),
    Case(spec=Spec(peepholes="fo")),
    Case(reverse=True, spec=Spec(coupled=True, peepholes="io")),
    Case(spec=Spec(cell_clip=0.6, peepholes="i")),
    Case(T=30, B=9, I=17, H=33, spec=Spec(peepholes="ifo")),
)


def expression(case, *, x, w_ih, w_hh, h0, c0, b=0, w_proj=None, w_peephole=None):
    """y, h_n, c_n by the equations, in PyTorch's operations."""
    s, h, c, y = case.spec, h0, c0, [None] * case.T
    p_i, p_f, p_o = (w_peephole[k] * (q in s.peepholes) if s.peepholes else 0
                     for k, q in enumerate("ifo"))  # fmt: skip
    lengths = torch.tensor([case.T] * case.B if case.lengths is None else case.lengths)
    for t in reversed(range(case.T)) if case.reverse else range(case.T):
        a_i, a_f, a_g, a_o = (x[t] @ w_ih.T + h @ w_hh.T + b).chunk(4, 1)
        i = torch.sigmoid(a_i + p_i * c)
        f = 1 - i if s.coupled else torch.sigmoid(a_f + p_f * c)
        c_new = f * c + i * torch.tanh(a_g)
        c_new = c_new if s.cell_clip is None else c_new.clamp(-s.cell_clip, s.cell_clip)
        h_new = torch.sigmoid(a_o + p_o * c_new) * torch.tanh(c_new)
        h_new = h_new if w_proj is None else h_new @ w_proj.T
        on = (t < lengths)[:, None]
        h, c = torch.where(on, h_new, h), torch.where(on, c_new, c)
        y[t] = torch.where(on, h_new, 0)
    return torch.stack(y), h, c


@pytest.mark.parametrize("case", CASES, ids=str)
def test_second_order_matches_pytorch(case):
    """Of a loss that is not linear: u = (y^2, h_n^2, c_n^2)."""
    problem = make_problem(case)
    primals = primals_of(problem)
    v = {n: a for n, a in direction(problem).items() if n in primals}
    names = list(primals)
    inputs = tuple(torch.tensor(a) for a in primals.values())
    tangents = tuple(torch.tensor(v[n]) for n in names)

    def outputs(*given):
        return expression(case, **dict(zip(names, given, strict=True)))

    def loss(*given):
        return sum((r**3).sum() for r in outputs(*given)) / 3

    results, moved = torch.autograd.functional.jvp(outputs, inputs, tangents)
    _, tgrads = torch.autograd.functional.hvp(loss, inputs, tangents)
    expected = dict(zip(("y", "h_n", "c_n"), results, strict=True))
    expected |= dict(zip(("ty", "th_n", "tc_n"), moved, strict=True))
    expected = {n: a.numpy() for n, a in expected.items()}
    actual = jvp(_second_order, problem, v)
    assert_matches(actual, expected, "float64", case, limit=1e-12)

    u = dict(dy=actual["y"] ** 2, tdy=2 * actual["y"] * actual["ty"])
    u["dstate"] = actual["h_n"] ** 2, actual["c_n"] ** 2
    u["tdstate"] = 2 * actual["h_n"] * actual["th_n"], 2 * actual["c_n"] * actual["tc_n"]
    expected = {f"td{n}": g.numpy() for n, g in zip(names, tgrads, strict=True)}
    actual = hvp(_second_order, problem, v, **u)
    assert_matches({n: actual[n] for n in expected}, expected, "float64", case, limit=1e-11)


def test_second_order_matches_nn_lstm():
    case = Case(T=12, B=4, I=6, H=11)
    problem, n = make_problem(case), "weight_hh_l0"
    lstm = torch.nn.LSTM(6, 11, dtype=torch.float64)
    biases = torch.tensor(problem.b), torch.zeros(44, dtype=torch.float64)
    weights = (torch.tensor(problem.w_ih), torch.tensor(problem.w_hh), *biases)
    names = [name for name, _ in lstm.named_parameters()]
    state = tuple(torch.tensor(s)[None] for s in problem.state)
    v = direction(problem)["w_hh"]

    def loss(w_hh):
        given = dict(zip(names, weights, strict=True)) | {n: w_hh}
        y, _ = torch.func.functional_call(lstm, given, (torch.tensor(problem.x), state))
        return (y * torch.tensor(problem.dy)).sum()

    _, expected = torch.autograd.functional.hvp(loss, weights[1], torch.tensor(v))
    _, (_, _, tgrads) = _second_order.lstm_hvp(
        primals_of(problem), {"w_hh": v}, dy=problem.dy, **options(case)
    )
    np.testing.assert_allclose(tgrads["w_hh"], expected, rtol=1e-10, atol=1e-12)
