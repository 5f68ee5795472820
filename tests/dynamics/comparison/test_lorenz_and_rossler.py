"""DSA on flows: Lorenz in two bases is one system, Rossler another; a bistable system is not a cycle."""

import numpy as np

import rnndyn as rd


def runge_kutta(field, x, dt, num_steps, num_skipped=100):
    """States of every row of x at steps of dt, `(B, T, N)`."""
    states = []
    h = dt / 5
    for n in range((num_steps + num_skipped) * 5):
        k1 = field(x)
        k2 = field(x + 0.5 * h * k1)
        k3 = field(x + 0.5 * h * k2)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + field(x + h * k3))
        if n % 5 == 4 and n // 5 >= num_skipped:
            states.append(x)
    return np.stack(states, axis=1)


def lorenz(s):
    x, y, z = s.T
    return np.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z], axis=1)


def rossler(s):
    x, y, z = s.T
    return np.stack([-y - z, x + 0.2 * y, 0.2 + z * (x - 5.7)], axis=1)


def bistable(s):
    x, y, z = s.T
    return np.stack([x - x**3, -y, -2 * z], axis=1)


def cycle(s):
    x, y, z = s.T
    r = x**2 + y**2
    return np.stack([x - y - x * r, x + y - y * r, -2 * z], axis=1)


def test_conjugate_flows_are_at_the_null_and_others_above_its_99_percent_point():
    rng = np.random.default_rng(0)
    starts = lambda scale: scale * rng.standard_normal((16, 3))
    turned = lambda states: states @ np.linalg.qr(rng.standard_normal((3, 3)))[0].T + 1.0
    strange = {"dt": 0.1, "num_steps": 600}
    plain = {"dt": 0.1, "num_steps": 600, "num_skipped": 0}
    networks = [
        runge_kutta(lorenz, starts(5.0) + np.array([0, 0, 25]), **strange),
        turned(runge_kutta(lorenz, starts(5.0) + np.array([0, 0, 25]), **strange)),
        runge_kutta(rossler, starts(2.0), **strange),
        runge_kutta(bistable, starts(1.0), **plain),
        runge_kutta(cycle, starts(1.0), **plain),
    ]
    found = rd.dynamical_similarity(networks, num_delays=4, rank=4)
    bar = np.quantile(found.null_distances, 0.99, axis=1)
    beyond = lambda i, j: found.distances[i, j] > max(bar[i], bar[j])
    assert found.p_values[0, 1] > 0.05
    assert not beyond(0, 1)
    assert beyond(0, 2)
    assert beyond(1, 2)
    assert beyond(3, 4)
    assert found.p_values[0, 2] < 0.011
    assert found.p_values[3, 4] < 0.011
