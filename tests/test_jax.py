# SPDX-License-Identifier: MIT
"""fastlstm.jax.lstm beside an LSTM in jax.lax.scan: results and gradients, transformed."""

import os
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest

pytestmark = pytest.mark.parity
jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402
from cases import Case, make_problem  # noqa: E402
from comparison import tolerance  # noqa: E402

import fastlstm as fl  # noqa: E402
from fastlstm.jax import lstm  # noqa: E402

CASES = [
    Case(T=7, B=3, I=5, H=9),
    Case(T=7, B=3, I=5, H=9, reverse=True),
    Case(T=7, B=5, lengths=(3, 0, 7, 7, 5)),
    Case(T=7, B=5, lengths=(3, 0, 7, 7, 5), reverse=True),
    Case(P=4),
    Case(P=4, B=4, lengths=(2, 7, 0, 5), reverse=True),
    Case(bias=False),
    Case(state=False),
    Case(T=1, B=1, I=1, H=1),
    Case(H=33, I=17),
]


@contextmanager
def x64(on):
    """JAX's switch for float64, in every thread: one that JAX computes in later sees no other."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", on)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    """float64 needs JAX's switch."""
    with x64(request.param == "float64"):
        yield np.dtype(request.param)


def scan_lstm(x, w_ih, w_hh, b=None, state=None, *, lengths=None, reverse=False, w_proj=None):
    """The same in JAX's own operations."""
    (T, B, _), H = x.shape, w_ih.shape[0] // 4
    P = H if w_proj is None else w_proj.shape[0]
    lengths = jnp.full(B, T) if lengths is None else lengths
    h, c = (jnp.zeros((B, n), x.dtype) for n in (P, H)) if state is None else state

    def step(carry, row):
        (h, c), (x_t, t) = carry, row
        a = x_t @ w_ih.T + h @ w_hh.T + (0 if b is None else b)
        i, f, g, o = jnp.split(a, 4, axis=1)
        c_new = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h_new = jax.nn.sigmoid(o) * jnp.tanh(c_new)
        h_new = h_new if w_proj is None else h_new @ w_proj.T
        on = (t < lengths)[:, None]
        h, c = jnp.where(on, h_new, h), jnp.where(on, c_new, c)
        return (h, c), jnp.where(on, h, 0)

    state, y = jax.lax.scan(step, (h, c), (x, jnp.arange(T)), reverse=reverse)
    return y, state


def arguments(case, dtype):
    """The differentiable arguments by name, the others, and the gradients of the results."""
    problem = make_problem(case, dtype)
    given = dict(x=problem.x, w_ih=problem.w_ih, w_hh=problem.w_hh, b=problem.b,
                 state=problem.state, w_proj=problem.w_proj)  # fmt: skip
    given = jax.tree.map(jnp.asarray, {k: a for k, a in given.items() if a is not None})
    rest = dict(reverse=case.reverse)
    if case.lengths is not None:
        rest["lengths"] = jnp.asarray(case.lengths)
    P = case.H if case.P is None else case.P
    rng = np.random.default_rng(1)
    shapes = [(case.T, case.B, P), (case.B, P), (case.B, case.H)]
    dy, dh, dc = (jnp.asarray(rng.standard_normal(s), dtype) for s in shapes)
    return given, rest, (dy, (dh, dc))


def loss(function, upstream, rest):
    """A scalar of all results whose gradient with respect to them is ``upstream``."""

    def value(given):
        results = function(**given, **rest)
        products = jax.tree.map(lambda a, d: (a * d).sum(), results, upstream)
        return sum(jax.tree.leaves(products)), results

    return value


def assert_close(actual, expected, dtype, case):
    """Leaf by leaf, to the tolerance of the case."""
    actual, expected = jax.tree.leaves_with_path(actual), jax.tree.leaves_with_path(expected)
    assert [path for path, _ in actual] == [path for path, _ in expected]
    for (path, a), (_, b) in zip(actual, expected, strict=True):
        assert a.dtype == dtype and a.shape == b.shape, f"{path}: {a.dtype} {a.shape}"
        scale = max(1e-3, float(jnp.abs(b).max(initial=0)))
        limit = 4 * tolerance(dtype, case) * scale  # errors on both sides
        np.testing.assert_allclose(a, b, rtol=0, atol=limit, err_msg=f"{path} of {case}")


def value_and_grads(function, case, dtype, jit):
    """The results and the gradients of all arguments."""
    given, rest, upstream = arguments(case, dtype)
    f = jax.value_and_grad(loss(function, upstream, rest), has_aux=True)
    (_, results), grads = (jax.jit(f) if jit else f)(given)
    return results, grads


@pytest.mark.parametrize("case", CASES, ids=str)
def test_lstm_and_gradients_match_scan(case, dtype):
    expected = value_and_grads(scan_lstm, case, dtype, jit=True)
    for jit in (False, True):
        assert_close(value_and_grads(lstm, case, dtype, jit), expected, dtype, case)


MAPPED = [
    *(("x",), ("state",), ("x", "state"), ("w_hh",), ("w_ih", "b")),
    ("x", "w_ih", "w_hh", "b", "state"),
]


@pytest.mark.parametrize("mapped", MAPPED, ids="+".join)
def test_vmap_matches_scan(mapped, dtype):
    """Each example with its own x, state or weights; and each with its own gradients."""
    case = CASES[3]
    given, rest, upstream = arguments(case, dtype)
    rng = np.random.default_rng(2)

    def several(a):
        return jnp.asarray(a + rng.standard_normal((4, *a.shape)), dtype)

    given |= {name: jax.tree.map(several, given[name]) for name in mapped}
    axes = {name: 0 if name in mapped else None for name in given}

    def both(function, jit):
        f = jax.vmap(jax.value_and_grad(loss(function, upstream, rest), has_aux=True), (axes,))
        (_, results), grads = (jax.jit(f) if jit else f)(given)
        return results, grads

    expected = both(scan_lstm, True)
    for jit in (False, True):
        assert_close(both(lstm, jit), expected, dtype, case)


def test_vmap_over_other_axes_lengths_and_twice_matches_scan(dtype):
    case = CASES[2]
    given, _, _ = arguments(case, dtype)
    rng = np.random.default_rng(3)
    x = jnp.asarray(rng.standard_normal((case.T, 2, case.B, case.I, 3)), dtype)
    lengths = jnp.asarray(rng.integers(0, case.T + 1, (3, case.B)))
    rest = {name: a for name, a in given.items() if name != "x"}

    def both(function):
        inner = jax.vmap(lambda x, n: function(x, **rest, lengths=n), in_axes=(3, 0))
        return jax.jit(jax.vmap(inner, in_axes=(1, None), out_axes=1))(x, lengths)

    assert_close(both(lstm), both(scan_lstm), dtype, case)


def test_grad_of_vmap_sums_over_the_examples(dtype):
    case = CASES[0]
    given, _, _ = arguments(case, dtype)
    rng = np.random.default_rng(4)
    x = jnp.asarray(rng.standard_normal((5, case.T, case.B, case.I)), dtype)

    def both(function):
        def f(w, x):
            return jax.vmap(lambda x: function(x, w, given["w_hh"])[0])(x).sum()

        return jax.jit(jax.grad(f, argnums=(0, 1)))(given["w_ih"], x)

    assert_close(both(lstm), both(scan_lstm), dtype, case)


def test_lstm_in_scan_and_in_a_stack_matches_scan(dtype):
    """Inside lax.scan, both directions in one program, one after the other."""
    case = Case(T=5, B=2, I=6, H=6)
    given, _, _ = arguments(case, dtype)
    weights = [given[name] for name in ("w_ih", "w_hh", "b")]

    def both(function):
        def layer(x, _):
            forwards = function(x, *weights)[0]
            return x + forwards * function(x, *weights, reverse=True)[0], None

        def f(x):
            return (jax.lax.scan(layer, x, None, length=3)[0] ** 2).sum()

        return jax.jit(jax.value_and_grad(f))(given["x"])

    assert_close(both(lstm), both(scan_lstm), dtype, case)


@pytest.mark.parametrize("spec", [
    fl.Spec(peepholes="ifo"), fl.Spec(coupled=True), fl.Spec(layer_norm=True),
    fl.Spec(full_gate_recurrence=True, cell_clip=0.6),
], ids=repr)  # fmt: skip
def test_variants_have_the_gradients_of_the_reference(spec):
    case = Case(spec=spec, lengths=(4, 7, 1))
    with x64(True):
        problem = make_problem(case, "float64")
        given = problem.forward()
        state = given.pop("state")
        spec, reverse, lengths = (given.pop(name) for name in ("spec", "reverse", "lengths"))
        given = {k: jnp.asarray(a) for k, a in given.items() if a is not None}

        def f(given, state):
            y, ends = lstm(**given, state=state, lengths=lengths, reverse=reverse, spec=spec)
            products = [(a * d).sum() for a, d in zip((y, *ends), (problem.dy, *problem.dstate),
                                                      strict=True)]  # fmt: skip
            return sum(products)

        grads, dstate = jax.jit(jax.grad(f, argnums=(0, 1)))(given, state)
    _, _, tape = fl.reference.lstm_forward(**problem.forward())
    dx, expected_dstate, expected = fl.reference.lstm_backward(tape, problem.dy, problem.dstate)
    expected["x"] = dx
    assert set(grads) == set(expected)
    for name, a in expected.items():
        np.testing.assert_allclose(grads[name], a, rtol=1e-10, atol=1e-11, err_msg=name)
    for a, b in zip(dstate, expected_dstate, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-11)


WRONG = {
    r"w_hh must have shape \(4\*H, H\) = \(36, 9\), got \(36, 8\)": dict(
        w_hh=np.zeros((36, 8), "f4")
    ),
    "x must be float32 or float64, got bfloat16": dict(x=jnp.zeros((7, 3, 5), jnp.bfloat16)),
    "x must have 3 dimensions": dict(x=np.zeros((7, 5), "f4")),
    r"lengths\[1\] must be in \[0, T\] = \[0, 7\], got 8": dict(lengths=[1, 8, 1]),
    "lengths must be integers": dict(lengths=[1.0, 2.0, 3.0]),
    "state must be None or a pair": dict(state=np.zeros((2, 3, 9), "f4")),
    r"h0 must have shape \(B, H\)": dict(state=(np.zeros((2, 9), "f4"), None)),
    "w_peephole was given, but spec does not use it": dict(w_peephole=np.zeros((3, 9), "f4")),
    "spec must be a fastlstm.Spec": dict(spec="ifo"),
}


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("text", WRONG)
def test_wrong_arguments_are_told_when_the_function_is_traced(text, jit):
    given, _, _ = arguments(CASES[0], np.float32)
    given |= WRONG[text]

    def call():
        return lstm(**given)

    with pytest.raises((TypeError, ValueError), match=text):
        (jax.jit(call) if jit else call)()


def test_lengths_that_are_known_late_are_refused_then():
    given, _, _ = arguments(CASES[0], np.float32)
    f = jax.jit(lambda lengths: lstm(**given, lengths=lengths)[0])
    assert (np.asarray(f(jnp.array([1, 2, 3])))[3:] == 0).all()
    with pytest.raises(Exception, match=r"lengths\[1\] must be in \[0, T\]"):
        f(jnp.array([1, 8, 3])).block_until_ready()


def test_a_second_call_compiles_nothing(caplog):
    given, _, _ = arguments(CASES[0], np.float32)
    lstm(**given)[0].block_until_ready()
    with jax.log_compiles():
        lstm(**given)[0].block_until_ready()
    assert not [r for r in caplog.records if "ompil" in r.getMessage()]


# Large arrays, two callbacks at once, gradients, one processor: where a callback that waits for
# JAX would wait for ever.
STRESS = """
import os, sys
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import jax, jax.numpy as jnp
from fastlstm.jax import lstm
key = jax.random.key(0)
T, B, I, H = 200, 64, 256, 32
x = jax.random.normal(key, (T, B, I))                  # 13 MB
w_ih, w_hh = jax.random.normal(key, (4 * H, I)) / 16, jax.random.normal(key, (4 * H, H)) / 6

@jax.jit
def f(w_ih, w_hh, x):
    x = jnp.sin(x)                                       # made by the program itself
    forwards, backwards = lstm(x, w_ih, w_hh)[0], lstm(x, w_ih, w_hh, reverse=True)[0]
    return (forwards * backwards).sum()

grad = jax.jit(jax.grad(f, argnums=(0, 1, 2)))
for _ in range(3):
    results = [grad(w_ih, w_hh, x) for _ in range(4)]  # dispatched without waiting
    results += [lstm(x, w_ih, w_hh) for _ in range(4)]
    jax.block_until_ready(results)
print("done")
"""


@pytest.mark.parametrize("dispatch", ["true", "false"])
def test_callbacks_do_not_wait_for_themselves(dispatch):
    environment = os.environ | {
        "JAX_CPU_ENABLE_ASYNC_DISPATCH": dispatch, "PYTHONPATH": os.pathsep.join(sys.path),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", STRESS], env=environment, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == "done", done.stderr


def test_import_without_jax_says_which_extra_to_install():
    code = "import sys; sys.modules['jax'] = None; import fastlstm.jax"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False,
                          env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})  # fmt: skip
    assert 'fastlstm.jax needs JAX: pip install "fastlstm[jax]"' in done.stderr
