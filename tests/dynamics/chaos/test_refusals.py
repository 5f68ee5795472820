"""Maps that settle are refused, all of them; and no proved entropy is above what their orbits measure."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from dynamics.maps import Henon, Logistic

import rnndyn as rd

pytestmark = pytest.mark.slow


class Tanh(eqx.Module):
    """x' = tanh(W x + b)."""

    weight: np.ndarray
    bias: np.ndarray

    def __call__(self, x):
        return jnp.tanh(jnp.asarray(self.weight) @ x + jnp.asarray(self.bias))


class Delayed(eqx.Module):
    """The delayed logistic map (x, y) -> (a x (1 - y), x): an invariant circle above a = 2."""

    a: float

    def __call__(self, x):
        return jnp.stack([self.a * x[0] * (1 - x[1]), x[0]])


def turned(angle, gain):
    return Tanh(gain * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]), np.zeros(2))


def random_network(gain, seed, size=10):
    rng = np.random.default_rng(seed)
    return Tanh(gain * rng.normal(size=(size, size)) / np.sqrt(size), 0.1 * rng.normal(size=size))


# What each does in the long run, from textbooks: Henon's map (1976), the logistic map with its windows of period 5
# (3.74) and 3 (3.83), in which orbits are chaotic first, and circles, on which they never repeat.
ORDERLY = {
    **{f"Henon {a}": (Henon(a=a), [0.1, 0.1]) for a in (0.1, 0.2, 0.35, 0.6, 0.95, 1.0, 1.3)},
    **{f"logistic {r}": (Logistic(r), [0.3]) for r in (2.5, 3.2, 3.5, 3.55, 3.74, 3.83)},
    **{f"circle {w}": (turned(w, g), [0.1, -0.2]) for w, g in ((1.0, 1.2), (0.6, 1.3), (2.0, 1.1))},
    "delayed logistic": (Delayed(2.1), [0.4, 0.5]),
    **{f"weak network {s}": (random_network(0.8, s), np.full(10, 0.1)) for s in range(3)},
}


def plain(f):
    """The same map in NumPy, with its derivative."""
    if isinstance(f, Tanh):
        step = lambda x: np.tanh(f.weight @ x + f.bias)
        return step, lambda x: (1 - step(x) ** 2)[:, None] * f.weight
    if isinstance(f, Henon):
        return (
            lambda x: np.array([1 - f.a * x[0] ** 2 + x[1], f.b * x[0]]),
            lambda x: np.array([[-2 * f.a * x[0], 1.0], [f.b, 0.0]]),
        )
    if isinstance(f, Logistic):
        return lambda x: f.r * x * (1 - x), lambda x: np.array([[f.r * (1 - 2 * x[0])]])
    return (
        lambda x: np.array([f.a * x[0] * (1 - x[1]), x[0]]),
        lambda x: np.array([[f.a * (1 - x[1]), -f.a * x[0]], [1.0, 0.0]]),
    )


def long_run(f, start, num_steps=3000, num_transient=20_000):
    """States after a transient, and growth rates of a tangent in 20 blocks."""
    step, derivative = plain(f)
    x, v = np.asarray(start, float), np.ones(len(start))
    for _ in range(num_transient):
        x = step(x)
    states, logs = [], []
    for _ in range(num_steps):
        states.append(x)
        v = derivative(x) @ v
        logs.append(np.log(np.linalg.norm(v)))
        v, x = v / np.linalg.norm(v), step(x)
    return np.array(states), np.reshape(logs, (20, -1)).mean(axis=1)


def test_there_are_twenty():
    assert len(ORDERLY) == 20


@pytest.mark.parametrize("name", ORDERLY)
def test_what_settles_is_refused(name):
    f, start = ORDERLY[name]
    states, rates = long_run(f, start)
    assert rates.mean() < 0.01  # or it would not belong here
    proof = rd.prove_chaos(f, states, budget=60.0, progress=False)
    assert not proof.proved, str(proof)


@pytest.mark.parametrize(
    ("f", "start"),
    [
        (Henon(), [0.1, 0.1]),
        (Logistic(3.9), [0.3]),
        (Logistic(3.7), [0.3]),
        (Tanh(np.array([[-5.0, 1.5], [-1.5, 0.0]]), np.array([-4.5, 0.0])), [0.1, -0.2]),
    ],
)
def test_no_bound_is_above_the_exponent_that_is_measured(f, start):
    states, rates = long_run(f, start)
    proof = rd.prove_chaos(f, states, progress=False)
    assert proof.proved, proof.reason
    assert 0 < proof.entropy_bound < rates.mean() + 4 * rates.std() / np.sqrt(len(rates))
