# SPDX-License-Identifier: MIT
"""The layouts of Flax, Equinox and Haiku, beside the living frameworks; skipped where they are not.

In float32, as JAX computes unless it is told otherwise.
"""

import numpy as np
import pytest
from framework_cells import H, I
from test_weights import foreign, imported, own
from test_weights import run as run_lstm
from test_weights_siblings import foreign as foreign_sibling
from test_weights_siblings import gru
from test_weights_siblings import run as run_gru

from fastlstm.weights import from_layout

pytestmark = pytest.mark.parity


def agree(got, want):
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def on_jax(tree):
    import jax

    return jax.tree.map(lambda a: jax.numpy.asarray(a, "float32"), tree)


@pytest.mark.parametrize("name", ["LSTMCell", "OptimizedLSTMCell"])
def test_flax_lstm(name):
    linen = pytest.importorskip("flax.linen")
    arrays = foreign("flax")
    cell, variables = getattr(linen, name)(H), {"params": on_jax(arrays)}

    def step(w, x, h, c):
        (c, h), _ = cell.apply(variables, on_jax((c, h)), on_jax(x))
        return np.asarray(h), np.asarray(c)

    agree(run_lstm(own, imported("flax", arrays)), run_lstm(step, None))


def test_flax_gru():
    linen = pytest.importorskip("flax.linen")
    arrays = foreign_sibling("gru", "flax")
    variables = {"params": on_jax(arrays)}

    def step(w, x, h):
        return np.asarray(linen.GRUCell(H).apply(variables, on_jax(h), on_jax(x))[0])

    agree(run_gru(gru, from_layout("flax", arrays, cell="gru")), run_gru(step, None))


def equinox_cell(kind, arrays):
    """An Equinox cell with these arrays."""
    import equinox
    import jax

    cell = getattr(equinox.nn, kind)(I, H, key=jax.random.PRNGKey(0))
    values = [on_jax(arrays[name]) for name in arrays]
    return equinox.tree_at(lambda c: [getattr(c, name) for name in arrays], cell, values)


def test_equinox_lstm():
    pytest.importorskip("equinox")
    import jax

    arrays = foreign("equinox")
    cell = jax.vmap(equinox_cell("LSTMCell", arrays))

    def step(w, x, h, c):
        return [np.asarray(s) for s in cell(on_jax(x), on_jax((h, c)))]

    agree(run_lstm(own, imported("equinox", arrays)), run_lstm(step, None))


def test_equinox_gru():
    pytest.importorskip("equinox")
    import jax

    arrays = foreign_sibling("gru", "equinox")
    cell = jax.vmap(equinox_cell("GRUCell", arrays))

    def step(w, x, h):
        return np.asarray(cell(on_jax(x), on_jax(h)))

    agree(run_gru(gru, from_layout("equinox", arrays, cell="gru")), run_gru(step, None))


def test_haiku_lstm():
    haiku = pytest.importorskip("haiku")
    arrays = foreign("haiku")
    cell = haiku.without_apply_rng(
        haiku.transform(lambda x, h, c: haiku.LSTM(H)(x, haiku.LSTMState(h, c)))
    )

    def step(w, x, h, c):
        _, state = cell.apply({"lstm/linear": on_jax(arrays)}, *on_jax((x, h, c)))
        return np.asarray(state.hidden), np.asarray(state.cell)

    agree(run_lstm(own, imported("haiku", arrays)), run_lstm(step, None))
