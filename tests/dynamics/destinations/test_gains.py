"""Trapping balls with rates that take variations of slopes for what they are: one number for each operation."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnndyn as rd
from rnndyn.dynamics.proofs import verified_norms as vn
from rnndyn.dynamics.proofs.gain_forms import gain_forms, gain_norms
from rnndyn.dynamics.proofs.interval_arithmetic import point
from rnndyn.dynamics.proofs.krawczyk import interval_precision

SIZE = 20


def test_norms_of_separate_units_are_those_of_the_closed_form():
    slopes, center = np.linspace(0.3, 1.8, 6), np.linspace(-1.5, 1.5, 6)
    radii = np.array([1e-9, 1e-3, 0.03])
    with interval_precision():
        form = jax.device_get(
            gain_forms(
                lambda x: jnp.tanh(jnp.asarray(slopes, x.dtype) * x),
                np.tile(center, (3, 1)),
                np.tile(np.eye(6), (3, 1, 1)),
                radii,
            )
        )
    found, multipliers = gain_norms(form, vn.inverse(point(np.tile(np.eye(6), (3, 1, 1)))), 16)
    assert np.all(multipliers > 0)
    # One unit may be moved by the whole radius, and tanh' falls with the distance from zero.
    nearest = np.maximum(np.abs(center) - radii[:, None], 0)
    exact = (slopes / np.cosh(slopes * nearest) ** 2).max(axis=1)
    assert np.all(found >= exact)
    np.testing.assert_allclose(found, exact, rtol=5e-3)
    np.testing.assert_allclose(found[0], exact[0], rtol=1e-9)


def network(make, scale):
    """A network with random weights around a stable point, and that point."""
    cell = make(1, SIZE, key=jax.random.key(3))
    cell = jax.tree.map(lambda a: scale * a, cell)
    f = rd.as_map(cell)
    with interval_precision():
        settle = jax.jit(lambda x: jax.lax.fori_loop(0, 2000, lambda _, x: f(x), x))
        return cell, f, np.asarray(settle(jnp.zeros(f.state_size)))


@pytest.mark.parametrize(("make", "scale"), [(rd.VanillaCell, 1.6), (rd.GRUCell, 3.0), (rd.LSTMCell, 2.0)])
def test_larger_balls_are_proved_and_a_second_program_agrees_to_nine_digits(make, scale, monkeypatch):
    cell, f, center = network(make, scale)
    balls = rd.prove_trapping_balls(f, center[None])
    assert balls.proved.all()
    assert np.all(balls.multipliers > 0)
    monkeypatch.setattr("rnndyn.dynamics.destinations.trapping_balls._FEW_UNITS", 10**6)
    plain = rd.prove_trapping_balls(f, center[None])
    assert plain.multipliers.size == 0
    assert balls.inner_radii[0] > 2 * plain.inner_radii[0]
    # No two states of the ball are taken further apart than the rate says.
    rng = np.random.default_rng(0)
    ends = rng.normal(size=(2, 200, len(center)))
    ends /= np.linalg.norm(ends, axis=-1, keepdims=True)
    inverse = np.linalg.inv(balls.factors[0])
    with interval_precision():
        images = np.asarray(jax.vmap(jax.vmap(f))(jnp.asarray(center + balls.radii[0] * ends @ balls.factors[0].T)))
    apart = np.linalg.norm((images[0] - images[1]) @ inverse.T, axis=1)
    assert np.all(apart <= balls.rates[0] * balls.radii[0] * np.linalg.norm(ends[0] - ends[1], axis=1))

    monkeypatch.undo()
    basins = rd.certify_basins(f, balls, center[None], max_steps=0, progress=False)

    def check(**changes):
        return rd.check_basins(dataclasses.replace(basins, balls=dataclasses.replace(balls, **changes)), cell)

    assert check().accepted, check().reason
    nudge = 1e-9
    for changes, word in (
        ({"rates": balls.rates * (1 - nudge)}, "|DF|"),
        ({"radii": balls.radii * (1 + nudge)}, "ball 0"),
        ({"offsets": balls.offsets - nudge}, "F(c)"),
        ({"centers": balls.centers + nudge}, "ball 0"),
        ({"multipliers": np.zeros_like(balls.multipliers)}, "|DF|"),
        ({"multipliers": balls.multipliers * np.linspace(0.1, 10, balls.multipliers.shape[1])}, "|DF|"),
        ({"multipliers": -balls.multipliers}, "|DF|"),
        ({"multipliers": balls.multipliers[:, 1:]}, "|DF|"),
    ):
        refused = check(**changes)
        assert not refused.accepted, changes
        assert word in refused.reason
