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
