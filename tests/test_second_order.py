# SPDX-License-Identifier: MIT
"""lstm_jvp and lstm_hvp: against central differences, against each other, against the reference."""

import inspect
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
from cases import Case, draw, make_problem
from comparison import assert_matches, tolerance

import fastlstm
from fastlstm import _second_order, backend, reference, tangent_checks
from fastlstm.spec import Spec

SPECS = (
    Spec(),
    *(Spec(peepholes=p) for p in ("i", "f", "o", "io", "ifo")),
    Spec(coupled=True),
    Spec(coupled=True, peepholes="io"),
    Spec(cell_clip=0.6),
    Spec(cell_clip=0.6, peepholes="fo"),
)
LAYOUTS = (
    Case(T=4, B=2, I=3, H=5),
    Case(T=4, B=2, I=3, H=5, reverse=True, bias=False),
    Case(T=4, B=4, I=3, H=5, lengths=(2, 0, 4, 3)),
    Case(T=4, B=4, I=3, H=5, P=2, lengths=(2, 4, 0, 3), reverse=True),
    Case(T=3, B=2, I=2, H=4, P=3),
)
CASES = tuple(
    [replace(layout, spec=spec) for layout in LAYOUTS for spec in SPECS]
    + [replace(LAYOUTS[2], **{name: False}) for name in ("state", "dy", "dstate")]
)
some = pytest.mark.parametrize("case", CASES, ids=str)


def primals_of(problem):
    """The arguments of lstm_forward that have a derivative, by name."""
    p = problem
    h0, c0 = (None, None) if p.state is None else p.state
    named = dict(x=p.x, w_ih=p.w_ih, w_hh=p.w_hh, b=p.b, h0=h0, c0=c0, w_proj=p.w_proj,
                 w_peephole=p.w_peephole)  # fmt: skip
    return {name: a for name, a in named.items() if a is not None}


def options(case):
    return dict(lengths=case.lengths, reverse=case.reverse, spec=case.spec)


def direction(problem, seed=1):
    """Random tangents of everything, also of the states, given or not."""
    rng = np.random.default_rng(seed)
    case, shapes = problem.case, {n: a.shape for n, a in primals_of(problem).items()}
    shapes |= dict(h0=(case.B, problem.w_hh.shape[1]), c0=(case.B, case.H))
    normal = draw(rng, problem.dtype)
    return {n: normal(*s) for n, s in shapes.items()}


def cotangents(problem, seed=2):
    """dy, dstate as the case has them, and their tangents."""
    normal = draw(np.random.default_rng(seed), problem.dtype)

    def like(a):
        if a is None or isinstance(a, tuple):
            return a and tuple(map(like, a))
        return normal(*a.shape)

    return dict(dy=problem.dy, dstate=problem.dstate, tdy=like(problem.dy),
                tdstate=like(problem.dstate))  # fmt: skip


def outputs(result, prefix=""):
    y, (h_n, c_n), *_ = result
    return {f"{prefix}y": y, f"{prefix}h_n": h_n, f"{prefix}c_n": c_n}


def gradients(result, prefix=""):
    dx, (dh0, dc0), grads = result
    named = dict(dx=dx, dh0=dh0, dc0=dc0, **{f"d{n}": g for n, g in grads.items()})
    return {prefix + n: a for n, a in named.items()}


def jvp(module, problem, v):
    result = module.lstm_jvp(primals_of(problem), v, **options(problem.case))
    return outputs(result) | outputs(result[2], "t")


def hvp(module, problem, v, **u):
    first, tangents = module.lstm_hvp(primals_of(problem), v, **u, **options(problem.case))
    return gradients(first) | gradients(tangents, "t")


def moved(problem, v, step):
    """The primals, ``step`` along v."""
    primals = primals_of(problem)
    zero = {"h0": np.zeros_like(v["h0"]), "c0": np.zeros_like(v["c0"])}
    return {n: primals.get(n, zero.get(n)) + step * v[n] for n in v}


def forward_at(problem, v, step):
    primals = moved(problem, v, step)
    state = primals.pop("h0"), primals.pop("c0")
    return reference.lstm_forward(**primals, state=state, **options(problem.case))


def backward_at(problem, v, u, step):
    def at(name):
        a, ta = u[name], u[f"t{name}"]
        if isinstance(a, tuple):
            return tuple(p + step * t for p, t in zip(a, ta, strict=True))
        return None if a is None else a + step * ta

    tape = forward_at(problem, v, step)[2]
    return gradients(reference.lstm_backward(tape, at("dy"), at("dstate")))


class Kink(Exception):
    """A cell reaches its clip between the points of a difference."""


def slope(function, h=2e-4):
    """d function / d step at 0 by name: central differences of 4th order."""
    near, far = ((function(k * h), function(-k * h)) for k in (1, 2))
    slopes = {}
    for name in near[0]:
        d1, d2 = (pair[0][name] - pair[1][name] for pair in (near, far))
        if not np.allclose(d1 / (2 * h), d2 / (4 * h), rtol=1e-3, atol=1e-3):
            raise Kink(name)
        slopes[name] = (8 * d1 - d2) / (12 * h)
    return slopes


def smooth(check, case):
    """Run ``check(problem)`` on the first numbers of the case that have no kink nearby."""
    for seed in range(9):
        try:
            return check(make_problem(case, seed=seed))
        except Kink:
            assert case.spec.cell_clip is not None
    raise AssertionError(f"a kink in all numbers of {case}")


def assert_slopes(actual, expected, case):
    for name, d in expected.items():
        a = actual[f"t{name}"]
        assert a.shape == d.shape
        # the floor is for entries that happen to be near 0
        allowed = 1e-6 * np.abs(d) + 1e-9 * np.abs(d).max(initial=1e-3)
        bad = np.abs(a - d) > allowed
        assert not bad.any(), f"t{name} of {case}: {a[bad][:3]}, central differences {d[bad][:3]}"


@some
def test_second_order_jvp_matches_central_differences(case):
    def check(problem):
        v = direction(problem)
        result = jvp(reference, problem, v)
        assert_slopes(result, slope(lambda step: outputs(forward_at(problem, v, step))), case)
        assert result["ty"].any()

    smooth(check, case)


@some
def test_second_order_hvp_matches_central_differences(case):
    def check(problem):
        v, u = direction(problem), cotangents(problem)
        result = hvp(reference, problem, v, **u)
        assert_slopes(result, slope(lambda step: backward_at(problem, v, u, step)), case)
        assert all(result[f"td{name}"].any() for name in primals_of(problem))
        expected = backward_at(problem, v, u, 0)
        assert_matches({n: result[n] for n in expected}, expected, "float64", case)

    smooth(check, case)


@pytest.mark.parametrize("name", ["x", "w_ih", "w_hh", "b", "h0", "c0", "w_proj", "w_peephole"])
@pytest.mark.parametrize("case", [CASES[5], CASES[35]], ids=str)
def test_second_order_of_one_argument_alone(case, name):
    """A direction in which one argument moves: the others' tangents may be left out."""
    problem = make_problem(case)
    u, everything = cotangents(problem), direction(problem)
    if name not in everything:
        pytest.skip("the case has none")
    v = {n: a * (n == name) for n, a in everything.items()}
    result = hvp(reference, problem, {name: v[name]}, dy=u["dy"], dstate=u["dstate"])
    u |= dict(tdy=np.zeros_like(u["dy"]), tdstate=tuple(map(np.zeros_like, u["dstate"])))
    assert_slopes(result, slope(lambda step: backward_at(problem, v, u, step)), case)
    result = jvp(reference, problem, {name: v[name]})
    assert_slopes(result, slope(lambda step: outputs(forward_at(problem, v, step))), case)


# -- the native code against the reference -------------------------------------------------------

LARGER = (
    Case(),
    Case(T=9, B=5, I=6, H=17, lengths=(3, 0, 9, 9, 5), spec=Spec(peepholes="ifo")),
    Case(T=9, B=5, I=6, H=17, lengths=(3, 0, 9, 9, 5), reverse=True, spec=Spec(coupled=True)),
    Case(T=6, B=13, I=33, H=70, P=20),
    Case(T=0),
    Case(T=0, lengths=(0, 0, 0), reverse=True),
    Case(T=1, B=1, I=1, H=1),
    Case(B=0),
    Case(I=0),
    Case(P=13),
    Case(lengths=(0, 0, 0)),
    Case(lengths=(5, 5, 5), reverse=True),
    Case(T=40, B=3, I=2, H=9, lengths=(40, 17, 4)),
)


@pytest.fixture(params=sorted({backend.info()["isa"], "none"}))
def native(request):
    """The native functions, whose tapes the SIMD step and the BLAS step lay out differently."""
    with backend.using_isa(request.param):
        yield _second_order


@pytest.mark.parametrize("case", CASES + LARGER, ids=str)
def test_second_order_native_matches_reference(native, case, dtype):
    exact, problem = (make_problem(case, d) for d in ("float64", dtype))  # the same numbers

    def everything(module, p):
        v = direction(p)
        return jvp(module, p, v) | hvp(module, p, v, **cotangents(p))

    expected, actual = everything(reference, exact), everything(native, problem)
    # In float32: a tangent of a gradient has about four times the operations of a gradient
    limit = 1e-12 if dtype == np.float64 else 4 * tolerance(dtype, case)
    assert_matches(actual, expected, dtype, case, limit)


# -- without an oracle -----------------------------------------------------------------------------

both = pytest.mark.parametrize("module", [reference, _second_order], ids=["reference", "engine"])


def product(a, b):
    """<a, b> over what both have."""
    return sum((a[n] * b[n]).sum() for n in a.keys() & b.keys())


@both
@some
def test_second_order_hessian_is_symmetric(module, case):
    """<w, H v> = <v, H w>, where the upstream gradients do not move."""
    problem = make_problem(case)
    u = dict(dy=problem.dy, dstate=problem.dstate)

    def times_hessian(v):
        result = hvp(module, problem, v, **u)
        return {n.removeprefix("td"): a for n, a in result.items() if n.startswith("td")}

    v, w = direction(problem, 3), direction(problem, 4)
    expected = product(w, times_hessian(v))
    assert product(v, times_hessian(w)) == pytest.approx(expected, rel=1e-10)
    assert expected != 0


@both
@some
def test_second_order_jvp_is_the_adjoint_of_backward(module, case):
    """<J v, u> = <v, J^T u>."""
    problem = make_problem(replace(case, dy=True, dstate=True))
    v = direction(problem)
    moved = jvp(module, problem, v)
    u = dict(zip(("ty", "th_n", "tc_n"), (problem.dy, *problem.dstate), strict=True))
    _, _, tape = forward_at(problem, v, 0)
    grads = gradients(reference.lstm_backward(tape, problem.dy, problem.dstate))
    transposed = {n.removeprefix("d"): a for n, a in grads.items()}
    assert product(moved, u) == pytest.approx(product(v, transposed), rel=1e-10)


@both
def test_second_order_of_a_loss_that_is_not_linear(module):
    """L = sum(y^3)/3 + sum(c_n^2)/2: the upstream gradients y^2 and c_n move too."""
    problem = make_problem(CASES[35])
    v = direction(problem)
    y, (_, c_n), (ty, (_, tc_n)) = module.lstm_jvp(primals_of(problem), v, **options(problem.case))
    result = hvp(module, problem, v, dy=y**2, dstate=(None, c_n), tdy=2 * y * ty,
                 tdstate=(None, tc_n))  # fmt: skip

    def at(step):
        y, (_, c_n), tape = forward_at(problem, v, step)
        return gradients(reference.lstm_backward(tape, y**2, (None, c_n)))

    assert_slopes(result, slope(at), problem.case)


# -- what goes in ----------------------------------------------------------------------------------


@both
def test_second_order_leaves_its_arguments_alone(module):
    problem = make_problem(Case(B=3, P=4, lengths=(7, 3, 0), spec=Spec(peepholes="ifo")))
    v, u = direction(problem), cotangents(problem)
    given = [*primals_of(problem).values(), *v.values(), u["dy"], u["tdy"], *u["dstate"],
             *u["tdstate"]]  # fmt: skip
    before = [a.copy() for a in given]
    for a in given:
        a.flags.writeable = False
    jvp(module, problem, v), hvp(module, problem, v, **u)
    for a, b in zip(given, before, strict=True):
        np.testing.assert_array_equal(a, b)


@both
def test_second_order_takes_strided_arguments(module):
    problem = make_problem(Case(T=4))
    v = direction(problem)
    answer = hvp(module, problem, v, dy=problem.dy)
    fortran = {n: np.asfortranarray(a) for n, a in v.items()}
    dy = np.repeat(problem.dy, 2, axis=2)[::-1, :, ::2][::-1]
    assert_matches(hvp(module, problem, fortran, dy=dy), answer, "float64", problem.case, 1e-13)


GOOD = dict(x=np.ones((4, 2, 3)), w_ih=np.ones((20, 3)), w_hh=np.ones((20, 5)))


@both
@pytest.mark.parametrize("name", ["lstm_jvp", "lstm_hvp"])
@pytest.mark.parametrize(
    ("primals", "tangents", "options", "error", "message"),
    [
        (None, {}, {}, TypeError, "primals must be a dict of arrays by the names of lstm_forward, "
         "got NoneType"),
        (GOOD, [], {}, TypeError, "tangents must be a dict of arrays by the names of lstm_forward, "
         "got list"),
        (GOOD | {"state": None}, {}, {}, ValueError, "primals may have x, w_ih, w_hh, b, h0, c0, "
         "w_peephole, w_proj, got 'state'"),
        (GOOD, {"y": 1}, {}, ValueError, "tangents may have x, w_ih, w_hh, b, h0, c0, w_peephole, "
         "w_proj, got 'y'"),
        ({"x": GOOD["x"], "w_ih": GOOD["w_ih"]}, {}, {}, ValueError,
         "primals must have x, w_ih and w_hh, w_hh is missing"),
        (GOOD | {"w_hh": np.ones((5, 20))}, {}, {}, ValueError,
         "w_hh must have shape (4*H, H) = (20, 5), got (5, 20)"),
        (GOOD, {"b": np.ones(20)}, {}, ValueError, "tangents has b, which primals has not"),
        (GOOD, {"x": np.ones((4, 3))}, {}, ValueError,
         "tangents['x'] must have shape (T, B, I) = (4, 2, 3), got (4, 3)"),
        (GOOD, {"x": np.ones((4, 2, 3), "f")}, {}, TypeError,
         "x is float64 but tangents['x'] is float32; all arrays must share one dtype"),
        (GOOD, {"x": np.ones((4, 2, 3), int)}, {}, TypeError,
         "tangents['x'] must be float32 or float64, got int64"),
        (GOOD, {}, {"lengths": [1, 9]}, ValueError, "lengths[1] must be in [0, T] = [0, 4], got 9"),
        (GOOD, {}, {"spec": "coupled"}, TypeError, "spec must be a fastlstm.Spec, got str"),
        (GOOD, {}, {"spec": Spec(layer_norm=True)}, NotImplementedError,
         "second derivatives of Spec(layer_norm=True) cannot be computed yet, only of peepholes, "
         "coupled, cell_clip"),
    ],
)  # fmt: skip
def test_second_order_refuses(module, name, primals, tangents, options, error, message):
    with pytest.raises(error) as fault:
        getattr(module, name)(primals, tangents, **options)
    assert str(fault.value) == message


@both
@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (dict(dy=np.ones((4, 2, 3))), ValueError,
         "dy must have shape (T, B, H) = (4, 2, 5), got (4, 2, 3)"),
        (dict(tdy=np.ones((4, 2, 3))), ValueError,
         "tdy must have shape (T, B, H) = (4, 2, 5), got (4, 2, 3)"),
        (dict(tdstate=np.ones((2, 2, 5))), TypeError,
         "tdstate must be None or a pair (tdh_n, tdc_n), got ndarray"),
        (dict(tdstate=(None, np.ones((5, 2)))), ValueError,
         "tdc_n must have shape (B, H) = (2, 5), got (5, 2)"),
    ],
)  # fmt: skip
def test_second_order_refuses_cotangents(module, given, error, message):
    with pytest.raises(error) as fault:
        module.lstm_hvp(GOOD, {}, **given)
    assert str(fault.value) == message


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there is no timer on this system")
def test_second_order_ctrl_c_stops_a_long_sequence():
    """The handler runs in the middle: much less work is done than in a whole pass."""
    x = np.full((1000, 16, 8), 0.1, np.float32)
    primals = dict(x=x, w_ih=np.zeros((1024, 8), "f"), w_hh=np.zeros((1024, 256), "f"))
    _, _, tape = fastlstm.lstm_forward(**primals)
    v = tangent_checks.tangent_inputs(tape, {"x": x})
    _, _, moved = _second_order.tangent_forward(tape, v)
    u = np.ones((1000, 16, 256), "f"), None, None

    def stop(*_):
        raise KeyboardInterrupt

    def work():  # its time on the processor, which others' work does not change
        start = time.process_time()
        try:
            _second_order.tangent_backward(moved, u, u)
        except KeyboardInterrupt:
            stopped.append(1)
        return time.process_time() - start

    stopped, whole = [], work()
    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.03)
        part = work()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert stopped
    assert part < 0.3 * whole


def test_second_order_is_public():
    module = reference if backend.select() is reference else _second_order
    assert fastlstm.lstm_jvp is module.lstm_jvp
    assert fastlstm.lstm_hvp is module.lstm_hvp
    for name in ("lstm_jvp", "lstm_hvp"):
        ours, theirs = getattr(_second_order, name), getattr(reference, name)
        assert ours.__doc__ == theirs.__doc__
        assert inspect.signature(ours) == inspect.signature(theirs)
