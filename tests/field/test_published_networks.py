"""Networks that other people trained and published: all their fixed points, counted in plain NumPy."""

from collections import Counter
from pathlib import Path

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

import rnndyn as rd

DATA = np.load(Path(__file__).parent.parent / "data" / "modarith_attractive_100.npz")
W, B, COLORS = (DATA[name].astype(float) for name in ("W", "b", "colors"))
ALPHA = 0.1


class Leaky(eqx.Module):
    """x -> (1 - a) x + a (W tanh(x) + b)."""

    weights: np.ndarray
    bias: np.ndarray

    def __call__(self, x):
        return (1 - ALPHA) * x + ALPHA * (self.weights @ jnp.tanh(x) + self.bias)


def states_of_trials(rng):
    """Of 27 trials, from ones: three colours for two steps each, and then rest."""
    states = []
    for colors in np.ndindex(3, 3, 3):
        times = np.array([4, 14, 24]) + rng.integers(0, 9, 3)
        x = np.ones(100)
        for t in range(90):
            shown = sum((COLORS[c] for c, start in zip(colors, times) if 0 <= t - start < 2), np.zeros(100))
            x = (1 - ALPHA) * x + ALPHA * (W @ np.tanh(x) + B + shown)
            states.append(x)
    return np.array(states)


def distances(points, others):
    return np.max(np.abs(points[:, None] - others), axis=2)


def newton(x):
    """Newton's method on x = W tanh(x) + b, with steps halved until the residual falls; `None` where it stalls."""
    for _ in range(40):
        residual = W @ np.tanh(x) + B - x
        size = np.linalg.norm(residual)
        if size < 1e-11:
            return x
        step = np.linalg.solve(W * (1 - np.tanh(x) ** 2) - np.eye(100), -residual)
        for _ in range(8):
            after = x + step
            if np.linalg.norm(W @ np.tanh(after) + B - after) < size:
                break
            step = step / 2
        else:
            return None
        x = after
    return None


@pytest.mark.slow
def test_all_fixed_points_of_a_network_that_adds_modulo_3():
    """There are 35, not the 27 of an earlier list, and the index sum is 1 as for every map of a box into itself."""
    rng = np.random.default_rng(0)
    states = states_of_trials(rng)
    starts = states[rng.choice(len(states), 1024, replace=False)] * (1 + 0.3 * rng.standard_normal((1024, 1)))
    found = rd.find_fixed_points(Leaky(W, B), starts, progress=False)
    points = np.asarray(found.points)
    # In NumPy: they are fixed, they are apart, and the signs of det(I - DF) sum to the degree.
    assert np.max(np.abs(np.tanh(points) @ W.T + B - points)) < 1e-12
    assert np.min(distances(points, points) + 9 * np.eye(len(points))) > 0.5
    jacobians = (1 - ALPHA) * np.eye(100) + ALPHA * W * (1 - np.tanh(points) ** 2)[:, None]
    assert np.sum(np.sign(np.linalg.det(np.eye(100) - jacobians))) == 1
    num_unstable = np.sum(np.abs(np.linalg.eigvals(jacobians)) > 1, axis=1)
    assert Counter(num_unstable.tolist()) == {0: 9, 1: 16, 2: 9, 3: 1}
    assert found.num_unstable.tolist() == num_unstable.tolist()
    # Trials that go on for long end at stable ones.
    x = states[89::90]
    for _ in range(3000):
        x = (1 - ALPHA) * x + ALPHA * (np.tanh(x) @ W.T + B)
    assert np.max(np.min(distances(x, points), axis=1)) < 1e-8
    assert not num_unstable[np.argmin(distances(x, points), axis=1)].any()
    # Newton's method from other states reaches most of them, and none besides.
    others = states[rng.choice(len(states), 200)] + 0.6 * rng.standard_normal((200, 100))
    reached = np.array([x for x in map(newton, others) if x is not None])
    nearest = distances(reached, points)
    assert np.max(np.min(nearest, axis=1)) < 1e-8
    assert len(np.unique(np.argmin(nearest, axis=1))) >= 20
