"""Layer normalisation and projection, against their papers' equations in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
from networks.random_cells import fill

import rnndyn as rd

IN, H, P = 3, 5, 2
RNG = np.random.default_rng(3)
U = RNG.normal(size=(8, IN))
# Sums of about ten products, in float64 rounded to 1e-16 each, over a few steps.
FLOAT64 = {"rtol": 0, "atol": 1e-13}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def norm(a, gain):
    return gain * (a - a.mean()) / np.sqrt(a.var() + 1e-5)


def draw(*shapes):
    return [RNG.normal(size=shape) for shape in shapes]


def test_vanilla(x64):
    w, v, gain, bias = draw((H, IN), (H, H), H, H)
    states, h = rd.unroll(rd.LayerNormVanillaCell.from_weights(w, v, gain, bias), U), np.zeros(H)
    for t, u in enumerate(U):
        h = np.tanh(norm(w @ u + v @ h, gain) + bias)
        np.testing.assert_allclose(states[t], h, **FLOAT64)


def test_lstm(x64):
    w, v, bias, g_ih, g_hh, g_c, b_c = draw((4 * H, IN), (4 * H, H), 4 * H, 4 * H, 4 * H, H, H)
    states = rd.unroll(rd.LayerNormLSTMCell.from_weights(w, v, bias, g_ih, g_hh, g_c, b_c), U)
    h, c = np.zeros(H), np.zeros(H)
    for t, u in enumerate(U):
        i, f, g, o = np.split(norm(w @ u, g_ih) + norm(v @ h, g_hh) + bias, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(norm(c, g_c) + b_c)
        np.testing.assert_allclose((states[0][t], states[1][t]), (h, c), **FLOAT64)


def test_gru(x64):
    w, v, bias, g_ih, g_hh = draw((3 * H, IN), (3 * H, H), 3 * H, 3 * H, 3 * H)
    states, h = rd.unroll(rd.LayerNormGRUCell.from_weights(w, v, bias, g_ih, g_hh), U), np.zeros(H)
    two = 2 * H
    for t, u in enumerate(U):
        a, b = w @ u, v @ h
        r, z = np.split(sigmoid(norm(a[:two], g_ih[:two]) + norm(b[:two], g_hh[:two]) + bias[:two]), 2)
        n = np.tanh(norm(a[two:], g_ih[two:]) + bias[two:] + r * norm(b[two:], g_hh[two:]))
        h = (1 - z) * n + z * h
        np.testing.assert_allclose(states[t], h, **FLOAT64)


def test_projected_lstm_is_pytorchs(x64):
    w, v, bias, projection = draw((4 * H, IN), (4 * H, P), 4 * H, (P, H))
    cell = rd.ProjectedLSTMCell.from_weights(w, v, bias, projection)
    states, h, c = rd.unroll(cell, U), np.zeros(P), np.zeros(H)
    for t, u in enumerate(U):
        i, f, g, o = np.split(w @ u + v @ h + bias, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = projection @ (sigmoid(o) * np.tanh(c))
        np.testing.assert_allclose(states[0][t], h, **FLOAT64)
        np.testing.assert_allclose(states[1][t], c, **FLOAT64)
    assert rd.as_map(cell).state_size == P + H
    assert rd.RNN(cell, lambda h: h)(U).shape == (8, P)


def test_the_jacobian_of_a_cell_without_a_formula(x64):
    cell = fill(lambda key: rd.ProjectedLSTMCell(IN, H, P, key=key))
    f = rd.as_map(cell, U[0])
    x = RNG.normal(size=P + H)
    expected = np.stack([(f(x + 1e-6 * e) - f(x - 1e-6 * e)) / 2e-6 for e in np.eye(P + H)], axis=1)
    # Central differences: 1e-12 of the third derivative, 1e-10 of rounding.
    np.testing.assert_allclose(rd.step_jacobian(cell, f.unflatten(x), U[0]), expected, rtol=0, atol=1e-9)


def test_half_precision_normalises_in_float32():
    """The square of 300 is past the largest float16."""
    cell = rd.LayerNormVanillaCell.from_weights(
        np.array([[300.0], [-300.0]], np.float16), np.zeros((2, 2), np.float16), np.ones(2), np.zeros(2)
    )
    half = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float16), cell)
    after = half(jnp.zeros(2, jnp.float16), jnp.ones(1, jnp.float16))
    assert after.dtype == jnp.float16
    np.testing.assert_allclose(after, np.tanh([1, -1]), atol=1e-3)
