"""A ring of equilibria, its theory, and what random weights leave of it."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import root_scalar

import rnndyn as rd
from experiments._runge_kutta import RungeKutta


class Ring(eqx.Module):
    """dx/dt = -x + (W + v T) tanh(x): cosine weights W, and T = dW/dtheta, which turns the bump at the velocity v."""

    weight: jax.Array
    turn: jax.Array

    def __call__(self, x: jax.Array, velocity: Any = 0.0) -> jax.Array:
        rates = jnp.tanh(x)
        return -x + self.weight @ rates + velocity * (self.turn @ rates)


class Perturbed(rd.Result):
    """One network with random weights added to those of the ring.

    - `angles`, `drifts`: in order, the angle and the speed along the ring of what starts on the exact ring, when it has
      come to rest across it.
    - `expected`: the speed that the theory of first order gives, at equal angles.
    - `point_angles`, `eigenvalues`, `num_unstable`: of the fixed points found on the ring.
    """

    size: float
    angles: np.ndarray
    drifts: np.ndarray
    expected: np.ndarray
    point_angles: np.ndarray
    eigenvalues: np.ndarray
    num_unstable: np.ndarray

    @property
    def persists(self) -> bool:
        """Whether what is found fits a circle: as many stable points as saddles, or none and a drift one way round."""
        stable, saddles = (int(np.sum(self.num_unstable == number)) for number in (0, 1))
        one_way = bool(np.all(self.drifts > 0) or np.all(self.drifts < 0))
        return stable == saddles and stable + saddles == len(self.num_unstable) and (stable > 0 or one_way)


def ring_radius(strength: float, angles: np.ndarray) -> float:
    """A of the equilibria x_i = A cos(theta_i - psi): A = 2 J <cos(theta) tanh(A cos(theta))> over the units."""
    excess = lambda radius: 2 * strength * np.mean(np.cos(angles) * np.tanh(radius * np.cos(angles))) / radius - 1
    return root_scalar(excess, bracket=(1e-6, 2 * strength), xtol=1e-15, rtol=1e-14).root


def null_vectors(states: np.ndarray, angles: np.ndarray, headings: np.ndarray) -> np.ndarray:
    """The left null vectors of Dv along the exact ring: what a push of each unit turns the heading by.

    W is symmetric, so that with D = diag(tanh') the vector D dx/dpsi is one; scaled, its product with dx/dpsi is 1.
    """
    along = np.max(np.abs(states)) * np.sin(angles - headings[:, None])
    left = along / np.cosh(states) ** 2
    return left / np.sum(left * along, axis=1, keepdims=True)


def heading(x: jax.Array) -> jax.Array:
    """The angle of the first Fourier mode of the state over the units' own angles."""
    angles = 2 * jnp.pi * jnp.arange(x.size) / x.size
    return jnp.arctan2(x @ jnp.sin(angles), x @ jnp.cos(angles))


def perturb(
    ring: Ring, size: float, noise: np.ndarray, states: np.ndarray, headings: np.ndarray, relaxation: float, dt: float
) -> Perturbed:
    """The ring's drift and fixed points with random weights of one size added."""
    network = Ring(ring.weight + size * noise, ring.turn)
    relaxed, now, speeds = (np.asarray(part) for part in relax(network, states, relaxation, dt))
    # Around the ring the speed changes its sign at every fixed point; some more starts, should the ring be broken.
    order = np.argsort(np.mod(now, 2 * np.pi))
    relaxed, now, speeds = relaxed[order], np.mod(now, 2 * np.pi)[order], speeds[order]
    starts = np.concatenate([relaxed[turns(speeds)], relaxed[:: max(len(relaxed) // 12, 1)]])
    found = rd.find_equilibria(network, starts, progress=False)
    num_units = states.shape[1]
    angles = 2 * np.pi * np.arange(num_units) / num_units
    # Beyond half its radius: a search may end at the state 0, which lies inside the ring.
    on_ring = np.abs(found.points @ np.exp(1j * angles)) > 0.25 * np.max(np.abs(states)) * num_units
    push = size * np.tanh(states) @ noise.T
    return Perturbed(
        size=size,
        angles=now,
        drifts=speeds,
        expected=np.sum(null_vectors(states, angles, headings) * push, axis=1),
        point_angles=np.mod(np.asarray(jax.vmap(heading)(jnp.asarray(found.points[on_ring]))), 2 * np.pi),
        eigenvalues=np.real(found.eigenvalues)[on_ring, :4],
        num_unstable=found.num_unstable[on_ring],
    )


def turns(speeds: np.ndarray) -> np.ndarray:
    """Where around the ring a speed has another sign than just before."""
    return np.sign(speeds) != np.sign(np.roll(speeds, 1))


@eqx.filter_jit
def relax(network: Ring, states: Any, relaxation: float, dt: float) -> tuple[jax.Array, jax.Array, jax.Array]:
    """States on the ring after they have come to rest across it, their headings, and how fast those turn."""
    step = RungeKutta(network, dt)

    def one(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        x = rd.trajectory(step, x, 2, num_transient=round(relaxation / dt))[-1]
        now, speed = jax.jvp(heading, (x,), (network(x),))
        return x, now, speed

    return jax.vmap(one)(jnp.asarray(states))
