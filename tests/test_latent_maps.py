"""A low-rank network is the map of its latent variables, exactly."""

import numpy as np
import pytest

import rnndyn as rd

H, R, IN, ALPHA = 6, 2, 3, 0.25
RNG = np.random.default_rng(2)
W_IH, M, N, B = RNG.normal(size=(H, IN)), RNG.normal(size=(H, R)), 4 * RNG.normal(size=(H, R)), RNG.normal(size=H)
U = RNG.normal(size=IN)
DRIVE = W_IH @ U + B


def leaky(state_variable):
    return rd.LeakyLowRankCell.from_weights(W_IH, M, N, B, dt=2.0, tau=8.0, state_variable=state_variable)


@pytest.mark.parametrize("state_variable", ["rate", "current"])
def test_the_cell_is_the_leaky_cell_with_its_weight(state_variable, x64):
    cell, inputs = leaky(state_variable), RNG.normal(size=(20, IN))
    weight, state = M @ N.T / H, np.zeros(H)
    states = rd.unroll(cell, inputs)
    for t, u in enumerate(inputs):
        if state_variable == "rate":
            target = np.tanh(W_IH @ u + weight @ state + B)
        else:
            target = W_IH @ u + weight @ np.tanh(state) + B
        state = (1 - ALPHA) * state + ALPHA * target
        np.testing.assert_allclose(states[t], state, rtol=0, atol=1e-13)
    np.testing.assert_allclose(cell.weight_hh, weight, rtol=0, atol=1e-15)
    assert cell.alpha == ALPHA
    lower, upper = cell.state_bounds(U)
    start = np.where(RNG.random(H) < 0.5, lower, upper)
    after = np.asarray(rd.trajectory(rd.as_map(cell, U), start, 20))
    assert (after >= lower).all()
    assert (after <= upper).all()


@pytest.mark.parametrize("state_variable", ["rate", "current", None])
def test_latent_variables_move_by_the_map(state_variable, x64):
    cell = rd.LowRankCell.from_weights(W_IH, M, N, B) if state_variable is None else leaky(state_variable)
    full, f = rd.as_map(cell, U), rd.latent_map(cell, U)
    kappa = RNG.normal(size=R)
    # Rates: whatever the state was. Currents: on the plane, which the network does not leave.
    start = f.lift(kappa) if state_variable == "current" else RNG.normal(size=H)
    states, latent = rd.trajectory(full, start, 10), rd.trajectory(f, f.project(start), 10)
    for state, x in zip(states, latent):
        np.testing.assert_allclose(f.project(state), x, rtol=0, atol=1e-12)
        if state_variable == "current":
            np.testing.assert_allclose(M @ x + DRIVE, state, rtol=0, atol=1e-12)
        else:
            np.testing.assert_allclose(N.T @ state / H, x, rtol=0, atol=1e-12)
    # Every state comes to the plane, as (1 - α)^t.
    if state_variable == "current":
        off = rd.trajectory(full, RNG.normal(size=H), 3)
        normal = np.linalg.svd(M.T)[2][R:]
        distances = np.linalg.norm((off - DRIVE) @ normal.T, axis=1)
        np.testing.assert_allclose(distances[1:] / distances[:-1], 1 - ALPHA, rtol=1e-10)


@pytest.mark.parametrize("state_variable", ["rate", "current"])
def test_fixed_points_and_multipliers_are_those_of_the_network(state_variable):
    cell = leaky(state_variable)
    f, full = rd.latent_map(cell, U), rd.as_map(cell, U)
    lower, upper = f.region
    candidates = np.random.default_rng(0).uniform(lower, upper, (64, R))
    latent = rd.find_fixed_points(f, candidates, progress=False)
    assert len(latent.points) >= 1
    for point, multipliers in zip(latent.points, latent.multipliers):
        drive = np.tanh(M @ point + DRIVE)
        state = drive if state_variable == "rate" else M @ point + DRIVE
        if state_variable == "rate":
            step = (1 - ALPHA) * state + ALPHA * np.tanh(M @ (N.T @ state) / H + DRIVE)
            slopes = (1 - np.tanh(M @ (N.T @ state) / H + DRIVE) ** 2)[:, None] * (M @ N.T) / H
        else:
            step = (1 - ALPHA) * state + ALPHA * (M @ (N.T @ np.tanh(state)) / H + DRIVE)
            slopes = (M @ N.T) / H * (1 - np.tanh(state) ** 2)
        np.testing.assert_allclose(step, state, rtol=0, atol=1e-13)
        np.testing.assert_allclose(f.lift(point), state, rtol=0, atol=1e-5)  # float32 outside of a driver
        found = np.sort_complex(np.linalg.eigvals((1 - ALPHA) * np.eye(H) + ALPHA * slopes))
        expected = np.sort_complex(np.concatenate([multipliers, np.full(H - R, 1 - ALPHA)]))
        # A multiple eigenvalue of a matrix that is not normal moves by a root of the rounding.
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert f.dt == full.dt == ALPHA


def test_what_is_refused():
    with pytest.raises(ValueError, match="cell: expected a LowRankCell or a LeakyLowRankCell, got a VanillaCell"):
        rd.latent_map(rd.VanillaCell.from_weights(W_IH, M @ N.T, B))
    own = rd.LeakyLowRankCell.from_weights(W_IH, M, N, B, tau=np.linspace(2, 5, H))
    with pytest.raises(ValueError, match="time constants of their own"):
        rd.latent_map(own)
