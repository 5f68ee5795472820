"""Gradient flossing."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rnndyn as rd


def network(num_units, gain, seed):
    weight = np.random.default_rng(seed).normal(size=(num_units, num_units)) * gain / np.sqrt(num_units)
    zeros = np.zeros((num_units, 1))
    return rd.VanillaCell.from_weights(
        zeros.astype(np.float32), weight.astype(np.float32), zeros[:, 0].astype(np.float32)
    )


@pytest.mark.slow
def test_it_pushes_the_first_eight_exponents_to_zero():
    # A network of 32 units at half the critical gain: its first eight exponents start around -ln 2 and further down.
    f = rd.as_map(network(32, 0.7, 0))
    x0 = 0.1 * jnp.ones(32)
    before = rd.flossing_loss(f, x0, 50, 8)
    result = rd.floss(f, x0, 400, 50, 8, optimizer=optax.adam(3e-3))
    after = rd.flossing_loss(result.f, x0, 50, 8)
    assert 0.1 < float(before) < 0.4
    assert float(after) < 0.005
    np.testing.assert_allclose(result.history.losses[0], before, rtol=1e-4)
    np.testing.assert_allclose(result.history.loss_after, after, rtol=1e-4)
    assert result.f.cell.weight_hh.shape == (32, 32)


def test_targets_and_inputs():
    f = rd.as_driven_map(network(6, 0.8, 1))
    inputs = jax.random.normal(jax.random.key(0), (150, 25, 1))
    target = jnp.array([0.0, -0.5])
    result = rd.floss(
        f,
        0.1 * jnp.ones(6),
        150,
        20,
        2,
        target=target,
        inputs=inputs,
        inputs_per_update=True,
        num_transient=5,
        # Every update sees 25 other inputs: at a constant rate the loss that is left is noise.
        optimizer=optax.adam(optax.cosine_decay_schedule(2e-2, 150)),
    )
    assert result.history.loss_after < 0.2 * result.history.loss_before
    reached = rd.lyapunov_spectrum(result.f, 0.1 * jnp.ones(6), 20, inputs=inputs[0], num_transient=5, num_exponents=2)
    np.testing.assert_allclose(np.mean((reached.exponents - target) ** 2), result.history.loss_after, rtol=1e-3)


def test_loss_is_the_mean_square():
    f = lambda x: jnp.array([2.0, 0.5]) * x
    expected = np.mean((np.log([2.0, 0.5]) - np.array([0.1, -0.2])) ** 2)
    loss = rd.flossing_loss(f, jnp.ones(2), 30, 2, num_transient=30, target=jnp.array([0.1, -0.2]))
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


def test_bad_input():
    with pytest.raises(ValueError, match="num_updates"):
        rd.floss(lambda x: x, jnp.ones(2), 0, 10, 1)
