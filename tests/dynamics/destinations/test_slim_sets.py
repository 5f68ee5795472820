"""Slim sets around orbits, and slopes of maps with one layer, against closed forms and long arithmetic."""

import decimal
from decimal import Decimal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnndyn as rd
from rnndyn.dynamics.destinations._discs import Discs, Stations
from rnndyn.dynamics.destinations._sets import advance
from rnndyn.dynamics.destinations._slim_sets import Layered, SlimSets, with_balls
from rnndyn.dynamics.numerics.drivers import let_in
from rnndyn.dynamics.proofs.krawczyk import interval_precision
from rnndyn.dynamics.proofs.layer_forms import layer_slopes, one_layer

SIZE = 5


def unit(rng, shape):
    v = rng.normal(size=shape)
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


def layered(f, size):
    f = let_in(f, np.zeros(size))
    layer = one_layer(f, size)
    assert layer is not None
    return Layered(f, layer)


@pytest.fixture(scope="module")
def stretching():
    """A linear map with the semi-axes of its image of a ball known: 2, 1, ... times the radius."""
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.normal(size=(SIZE, SIZE)))[0] for _ in range(2))
    axes = np.array([2.0, 1.0, 0.5, 0.3, 0.2])
    matrix = left @ np.diag(axes) @ right.T
    return matrix, axes, lambda x: jnp.asarray(matrix, x.dtype) @ x


def test_a_ball_becomes_the_ellipsoid_of_the_closed_form(stretching):
    matrix, axes, f = stretching
    radii = np.array([1e-7, 1e-3, 2.0])
    states = np.random.default_rng(1).normal(size=(3, SIZE))
    with interval_precision():
        sets = with_balls(SlimSets(states, np.zeros((3, SIZE, SIZE))), radii)
        step = layered(f, SIZE)
        (once, known), expected = step.advance(sets), matrix @ matrix.T
        twice, _ = step.advance(once)
    assert known.all()
    np.testing.assert_allclose(sets.reach, np.sqrt(SIZE) * radii, rtol=1e-12)
    np.testing.assert_allclose(once.centers, states @ matrix.T, rtol=1e-13, atol=1e-13)
    for image, power in ((once, expected), (twice, matrix @ expected @ matrix.T)):
        for covariance, radius in zip(image.covariances, radii):
            # Nothing of the closed form is left out, and hardly anything is added.
            excess = np.linalg.eigvalsh(covariance / radius**2 - power)
            assert np.all(excess >= -1e-14)
            assert np.all(excess <= 2e-6)
    found = np.sqrt(np.linalg.eigvalsh(once.covariances[2]))[::-1]
    np.testing.assert_allclose(found, 2.0 * axes, rtol=1e-6)


def test_the_sum_with_a_ball_reaches_as_far_as_both_in_every_direction():
    rng = np.random.default_rng(4)
    factors = rng.normal(size=(3, SIZE, SIZE))
    covariances, radii = factors @ np.swapaxes(factors, 1, 2), np.array([1e-6, 0.3, 20.0])
    total = with_balls(SlimSets(np.zeros((3, SIZE)), covariances.copy()), radii).covariances
    u = unit(rng, (500, SIZE))
    length = lambda s: np.sqrt(np.einsum("mi,kij,mj->km", u, s, u))
    exact = length(covariances) + radii[:, None]
    assert np.all(length(total) >= exact)
    # In the mean over directions little is lost; none could be without, for the sum is no ellipsoid.
    assert np.all((length(total) / exact).mean(axis=1) < 1.1)


def test_a_disc_becomes_the_ellipsoid_of_the_closed_form(stretching):
    matrix, _, _ = stretching
    matrix = 0.4 * matrix
    f = lambda x: jnp.asarray(matrix, x.dtype) @ x
    balls = rd.prove_trapping_balls(f, np.zeros((1, SIZE)))
    states = np.random.default_rng(1).normal(size=(3, SIZE))
    distances = np.array([1e-6, 1e-2, 3.0])
    with interval_precision():
        program = let_in(f, states[0])
        stations = Stations(program, balls, np.arange(1))
        sets = stations.ellipsoids(Discs(states, np.zeros(3, int), distances))
        image = advance(program, sets)
    # The image of {c + d Q y} is {M c + d M Q y}: as singular values, and in every direction.
    exact = matrix @ balls.factors[0]
    found = image.factors * image.radii[:, None, None]
    np.testing.assert_allclose(image.centers, states @ matrix.T, rtol=1e-13, atol=1e-13)
    for factor, distance in zip(found, distances):
        excess = np.linalg.eigvalsh(factor @ factor.T / distance**2 - exact @ exact.T)
        assert np.all(excess >= 0)
        assert np.all(excess <= 1e-4 * np.linalg.norm(exact, 2) ** 2)


def curved(x):
    turn = jnp.asarray([[0.9, -1.3, 0.4], [1.1, 0.7, -0.6], [0.3, 0.8, 1.4]], x.dtype)
    return jnp.tanh(turn @ x + jnp.asarray([0.4, -0.2, 0.1], x.dtype))


def test_images_of_states_of_a_set_lie_in_its_image():
    rng = np.random.default_rng(3)
    centers, factors = rng.normal(size=(6, 3)), rng.normal(size=(6, 3, 3))
    factors *= np.array([1e-3, 1e-3, 0.05, 0.05, 0.2, 0.2])[:, None, None]
    with interval_precision():
        image, known = layered(curved, 3).advance(SlimSets(centers, factors @ np.swapaxes(factors, 1, 2)))
        states = centers[:, None] + np.einsum("kij,kmj->kmi", factors, unit(rng, (6, 400, 3)))
        ends = np.asarray(jax.vmap(jax.vmap(curved))(jnp.asarray(states))) - image.centers[:, None]
        slopes = np.asarray(jax.vmap(jax.jacfwd(curved))(jnp.asarray(centers)))
    assert known.all()
    inverses = np.linalg.inv(image.covariances)
    seen = np.einsum("kmi,kij,kmj->km", ends, inverses, ends).max(axis=1)
    assert np.all(seen <= 1)
    # As small sets hardly bend, hardly anything is lost; and without what bends sets these would not hold.
    assert np.all(seen[:2] > 0.8)
    linear = np.einsum("kij,kjm,knm->kin", slopes, factors @ np.swapaxes(factors, 1, 2), slopes)
    bare = np.einsum("kmi,kij,kmj->km", ends, np.linalg.inv(linear), ends).max(axis=1)
    assert np.all(bare[2:] > 1)


def test_orbits_of_long_arithmetic_stay_in_their_sets():
    state, shift = np.array([0.3, -0.7, 0.2]), (0.4, -0.2, 0.1)
    with interval_precision():
        step, sets = layered(curved, 3), SlimSets(state[None], np.zeros((1, 3, 3)))
        turn = [[0.9, -1.3, 0.4], [1.1, 0.7, -0.6], [0.3, 0.8, 1.4]]
        with decimal.localcontext(prec=60):
            exact = [Decimal(x) for x in state.tolist()]
            for _ in range(60):
                sums = [sum(Decimal(w) * x for w, x in zip(row, exact)) + Decimal(b) for row, b in zip(turn, shift)]
                exact = [(1 - (-2 * s).exp()) / (1 + (-2 * s).exp()) for s in sums]
                sets, known = step.advance(sets)
                assert known.all()
                away = np.array([float(x - Decimal(c)) for x, c in zip(exact, sets.centers[0].tolist())])
                assert 0 < away @ np.linalg.solve(sets.covariances[0], away) <= 1
                assert sets.reach[0] < 1e-8


@pytest.mark.parametrize("make", [rd.VanillaCell, rd.GRUCell, rd.LSTMCell])
def test_slopes_of_cells_hold_their_derivatives(make):
    cell = make(2, SIZE, key=jax.random.key(1))
    rng = np.random.default_rng(0)
    with interval_precision():
        f = let_in(rd.as_map(cell, np.array([0.4, -1.0])), np.zeros(rd.as_map(cell).state_size))
        size = rd.as_map(cell).state_size
        layer = one_layer(f, size)
        assert layer is not None
        centers, radii = rng.normal(size=(4, size)), np.array([0.0, 1e-6, 1e-2, 0.3])
        found = jax.device_get(layer_slopes(f, layer.seeds, layer.lengths, centers, radii))
        at_centers = np.asarray(jax.vmap(f)(jnp.asarray(centers)))
        states = centers[:, None] + radii[:, None, None] * unit(rng, (4, 50, size))
        seen = np.asarray(jax.vmap(jax.vmap(jax.jacfwd(f)))(jnp.asarray(states)))
    assert np.asarray(found.is_known).all()
    assert np.all((found.value.lo <= at_centers) & (at_centers <= found.value.hi))
    # sum_c diag(a_c) M_c for all slopes between two bounds.
    ends = [np.einsum("kcn,cnm->kcnm", end, layer.matrices) for end in (found.slopes.lo, found.slopes.hi)]
    low, high = np.minimum(*ends).sum(axis=1)[:, None], np.maximum(*ends).sum(axis=1)[:, None]
    assert np.all((low - 1e-12 <= seen) & (seen <= high + 1e-12))
    np.testing.assert_allclose(low[:2], high[:2], atol=1e-4)
    # In the entries there is one slope for the state and one for each sum.
    assert len(layer.matrices) == {rd.VanillaCell: 1, rd.GRUCell: 4, rd.LSTMCell: 5}[make]


def test_maps_of_another_form_have_no_layer():
    weights = jnp.asarray(np.random.default_rng(0).normal(size=(SIZE, SIZE)))
    with interval_precision():
        for f in (
            lambda x: jnp.tanh(weights @ jnp.tanh(weights @ x)),
            lambda x: x / jnp.sum(x**2),
            lambda x: jnp.sort(x),
        ):
            assert one_layer(f, SIZE) is None
        layer = one_layer(lambda x: jnp.stack([x[1], x[0] * x[2], x[2] + 0.1]), 3)
    assert layer is not None
    rows = np.eye(3)
    at = layer.matrices
    assert {tuple(r) for r in at[:, 1] if r.any()} == {tuple(rows[0]), tuple(rows[2])}
    assert {tuple(r) for r in at[:, 0] if r.any()} == {tuple(rows[1])}


def test_a_state_near_the_orbit_of_another_may_still_end_elsewhere():
    f = lambda x: jnp.tanh(2 * x)
    memories = 0.957504024079 * np.array([[-1.0, 1.0], [1.0, 1.0]])
    for _ in range(100):
        memories = np.tanh(2 * memories)
    once, twice = np.tanh(1.0), np.tanh(2 * np.tanh(1.0))
    # The image of the first is (2e-6, tanh 1), so near to the next two that all three are followed as one at first.
    states = np.array([[1e-6, 0.5], [-5e-6, once], [3e-6, once], [6e-6 + 1e-12, twice]])
    basins = rd.certify_basins(f, memories, states, progress=False)
    assert basins.labels.tolist() == [1, 0, 1, 1]
    # A bit that has left zero arrives when it is as near to the memory as the ball is wide, the other one long before.
    largest = (basins.balls.inner_radii * basins.multiples)[basins.labels]
    for x, label, radius, steps in zip(states, basins.labels, largest, basins.steps):
        expected = 0
        while np.linalg.norm(x - memories[label]) > radius:
            x, expected = np.tanh(2 * x), expected + 1
        assert expected == steps
    # Of one orbit, to the rounding of float32, they arrive together.
    orbit = [np.array([0.3, -0.2])]
    for _ in range(5):
        orbit.append(np.tanh(2 * orbit[-1].astype(np.float32)).astype(float))
    basins = rd.certify_basins(f, memories * np.array([[1, -1]]), np.array(orbit[::-1]), progress=False)
    assert basins.proved.all()
    arrival = np.arange(5, -1, -1) + basins.steps
    assert np.all((basins.steps == 0) | (arrival == basins.steps[-1]))
