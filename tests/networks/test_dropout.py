"""Dropout against plain NumPy programs with the same draws, and none of it without a key."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks.random_cells import fill, normal

import rnndyn as rd
from rnndyn.networks.cells.dropout import DropoutCell

IN, H, T, P = 3, 4, 6, 0.4
KEY = jax.random.key(7)
ONCE = 2**31 - 1
# Float64 sums over a few contracting steps.
FLOAT64 = {"rtol": 0, "atol": 1e-13}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def keep(key, size, rate=P):
    return np.asarray(jax.random.bernoulli(key, 1 - rate, (size,))) / (1 - rate)


def vanilla(cell, inputs, input_masks, recurrent_mask=1.0):
    h, states = np.zeros(H), []
    for u, mask in zip(inputs, input_masks):
        h = np.tanh(cell.weight_ih @ (mask * u) + cell.weight_hh @ (recurrent_mask * h) + cell.bias)
        states.append(h)
    return np.stack(states)


def test_masks_are_drawn_at_every_step_or_once(x64):
    cell, inputs = fill(lambda key: rd.VanillaCell(IN, H, key=key)), normal(T, IN)
    fresh = [keep(jax.random.split(key)[0], IN) for key in jax.random.split(KEY, T)]
    np.testing.assert_allclose(
        rd.unroll(DropoutCell(cell, P), inputs, key=KEY), vanilla(cell, inputs, fresh), **FLOAT64
    )
    input_key, recurrent_key, _ = jax.random.split(jax.random.fold_in(KEY, ONCE), 3)
    held = [keep(input_key, IN)] * T
    variational = DropoutCell(cell, P, recurrent_rate=0.5, variational=True)
    expected = vanilla(cell, inputs, held, keep(recurrent_key, H, 0.5))
    np.testing.assert_allclose(rd.unroll(variational, inputs, key=KEY), expected, **FLOAT64)
    assert np.abs(np.diff([m.tolist() for m in fresh], axis=0)).max() > 0


def test_the_recurrent_mask_of_a_gru_is_that_of_what_its_gates_read(x64):
    """Gal and Ghahramani: the products U h see D(m) h; the path z h does not."""
    cell, inputs = fill(lambda key: rd.GRUCell(IN, H, key=key)), normal(T, IN)
    mask = keep(jax.random.split(jax.random.fold_in(KEY, ONCE), 3)[1], H)
    h, expected = np.zeros(H), []
    (wr, wz, wn), (ur, uz, un), (br, bz, bn) = (np.split(w, 3) for w in (cell.weight_ih, cell.weight_hh, cell.bias))
    for u in inputs:
        m = mask * h
        r, z = sigmoid(wr @ u + ur @ m + br), sigmoid(wz @ u + uz @ m + bz)
        n = np.tanh(wn @ u + bn + r * (un @ m + cell.bias_n))
        h = (1 - z) * n + z * h
        expected.append(h)
    np.testing.assert_allclose(rd.unroll(DropoutCell(cell, recurrent_rate=P), inputs, key=KEY), expected, **FLOAT64)


def test_dropout_between_layers_and_in_the_readout(x64):
    cells = [fill(lambda key, size=size: rd.VanillaCell(size, H, key=key)) for size in (IN, H)]
    linear = fill(lambda key: eqx.nn.Linear(H, 2, key=key))
    inputs, readout = normal(T, IN), eqx.nn.Sequential([rd.Dropout(P), linear])
    model = rd.StackedRNN(cells, readout, dropout=P)
    below = vanilla(cells[0], inputs, [1.0] * T)
    layer_keys = [jax.random.split(key, 2)[1] for key in jax.random.split(KEY, T)]
    states = vanilla(cells[1], below, [keep(jax.random.split(key)[0], H) for key in layer_keys])
    # A readout has keys of its own; `Sequential` splits each for its layers.
    keys = jax.random.split(jax.random.fold_in(KEY, ONCE - 1), T)
    dropped = np.stack([keep(jax.random.split(key, 2)[0], H) * state for key, state in zip(keys, states)])
    np.testing.assert_allclose(model(inputs, key=KEY), dropped @ linear.weight.T + linear.bias, **FLOAT64)
    # Evaluation is a call without a key: the plain stack.
    plain = vanilla(cells[1], below, [1.0] * T) @ linear.weight.T + linear.bias
    np.testing.assert_allclose(model(inputs), plain, **FLOAT64)
    variational = rd.StackedRNN(cells, linear, dropout=P, variational=True)
    layer_key = jax.random.split(jax.random.fold_in(KEY, ONCE), 2)[1]
    held = [keep(jax.random.split(layer_key, 3)[0], H)] * T
    expected = vanilla(cells[1], below, held) @ linear.weight.T + linear.bias
    np.testing.assert_allclose(variational(inputs, key=KEY), expected, **FLOAT64)


def test_analyses_see_the_cell_without_dropout(x64):
    cell = fill(lambda key: rd.GRUCell(IN, H, key=key))
    dropped = DropoutCell(cell, P, recurrent_rate=P, variational=True)
    x, u = np.linspace(-0.5, 0.5, H), np.ones(IN)
    f = rd.as_map(dropped, u)
    assert type(f.cell) is rd.GRUCell
    np.testing.assert_allclose(f(x), cell(x, u), **FLOAT64)
    np.testing.assert_allclose(dropped(x, u), cell(x, u), **FLOAT64)
    np.testing.assert_array_equal(rd.step_jacobian(dropped, x, u), rd.step_jacobian(cell, x, u))
    np.testing.assert_array_equal(rd.unroll(dropped, np.tile(u, (3, 1))), rd.unroll(cell, np.tile(u, (3, 1))))
    np.testing.assert_array_equal(dropped.state_bounds(u), cell.state_bounds(u))


def test_models_take_a_key_whether_they_draw_or_not(x64):
    """One training loop for all models: a key is used by what draws, and changes nothing elsewhere."""
    inputs = normal(T, IN)
    clean = fill(lambda key: rd.RNN(rd.GRUCell(IN, H, key=key), eqx.nn.Linear(H, 2, key=key)))
    np.testing.assert_array_equal(clean(inputs, key=KEY), clean(inputs))
    gru = fill(lambda key: rd.GRUCell(IN, H, key=key))
    half = rd.BidirectionalRNN(DropoutCell(gru, P), gru, lambda h: h)
    noisy, still = half(inputs, key=KEY), half(inputs)
    assert np.abs(noisy[:, :H] - still[:, :H]).max() > 1e-3
    np.testing.assert_array_equal(noisy[:, H:], still[:, H:])
    masks = jnp.arange(T) < 4
    np.testing.assert_allclose(half(inputs.at[4:].set(jnp.nan), masks, key=KEY)[:4, :H], noisy[:4, :H], **FLOAT64)


def test_what_is_refused():
    cell = fill(lambda key: rd.GRUCell(IN, H, key=key))
    with pytest.raises(ValueError, match=r"rate: expected a probability from 0 to below 1, got 1"):
        rd.Dropout(1.0)
    with pytest.raises(ValueError, match=r"recurrent_rate: expected a cell with a recurrent weight"):
        DropoutCell(rd.LowRankCell(IN, H, key=KEY), recurrent_rate=0.5)
    with pytest.raises(ValueError, match="variational: the width of the cell's input is not known"):
        DropoutCell(lambda s, u: s, 0.5, variational=True)
    with pytest.raises(ValueError, match=r"key: this dropout keeps its masks over a sequence"):
        DropoutCell(cell, 0.5, variational=True)(cell.initial_state(), np.ones(IN), key=KEY)
