"""Times of leaky networks are in time constants, whatever the step of time they are computed with."""

import numpy as np
import pytest

import rnndyn as rd

# dx/dt = -x + W tanh(x) (in units of tau) at rest: rates 1 - w, time constants 1 / (1 - w) = 100, 5 and 1.25 tau.
WEIGHTS = np.diag([0.99, 0.8, 0.2])


def leaky(alpha):
    return rd.LeakyCell.from_weights(
        np.zeros((3, 1)), WEIGHTS, np.zeros(3), dt=alpha * 50.0, tau=50.0, state_variable="current"
    )


@pytest.mark.parametrize("alpha", [0.5, 0.01])
def test_slow_modes_do_not_depend_on_the_step_of_time(alpha):
    f = rd.as_map(leaky(alpha), np.zeros(1))
    # A row of states along the slow direction; 20 steps of .01 tau are .2 tau, and every mode is slower than that.
    candidates = np.zeros((9, 3))
    candidates[:, 0] = np.linspace(-0.3, 0.3, 9)
    found = rd.find_slow_points(f, candidates, slow_time=20.0, progress=False)
    assert found.manifold.dt == pytest.approx(alpha)
    assert found.manifold.dimension == 1
    faster = rd.find_slow_points(f, candidates, slow_time=3.0, progress=False)
    assert faster.manifold.dimension == 2


@pytest.mark.parametrize("leaf", ["dt", "tau"])
def test_the_step_of_time_at_which_a_network_at_rest_becomes_unstable(leaf):
    """x' = (1 - alpha) x + alpha W tanh(x) has the multipliers 1 - alpha + alpha mu at rest, mu those of W.

    A pair mu = a + i b reaches the unit circle at alpha = 2 (1 - a) / ((1 - a)^2 + b^2), a real one -1 at
    alpha = 2 / (1 - mu): with mu = 1/2 +- 2 i at .23529, where the flow itself is stable, and with -4 at .4.
    """
    modes = np.array([[0.5, -2, 0, 0], [2, 0.5, 0, 0], [0, 0, -4, 0], [0, 0, 0, 0.3]])
    basis = np.random.default_rng(0).standard_normal((4, 4)) + 2 * np.eye(4)
    cell = rd.LeakyCell.from_weights(
        np.zeros((4, 0)),
        basis @ modes @ np.linalg.inv(basis),
        np.zeros(4),
        dt=0.1,
        tau=1.0,
        state_variable="current",
    )
    first, second = 2 * 0.5 / (0.25 + 4), 0.4
    if leaf == "dt":
        branch = rd.continue_fixed_points(rd.leaf_parameter(cell, lambda c: c.dt), np.zeros(4), 0.1, (0.05, 0.6))
        alphas = [event.parameter for event in branch.bifurcations]
    else:
        branch = rd.continue_fixed_points(rd.leaf_parameter(cell, lambda c: c.tau), np.zeros(4), 1.0, (0.15, 2.0))
        alphas = [0.1 / event.parameter for event in branch.bifurcations][::-1]
    np.testing.assert_allclose(alphas, [first, second], rtol=1e-9)
    assert {event.kind for event in branch.bifurcations} == {"neimark-sacker", "flip"}
    at_first = branch.of_kind("neimark-sacker")[0]
    assert at_first.angle == pytest.approx(np.angle(1 - first + first * (0.5 + 2j)), abs=1e-8)
