r"""Coefficients of the normal forms at a bifurcation of a map, on its centre manifold.

With the derivatives B = D^2 F^p and C = D^3 F^p at the point, A = DF^p, the critical right and left eigenvectors q and
p scaled by <q, q> = 1 and <p, q> = 1:

- fold: xi' = xi + beta + a xi^2, a = <p, B(q, q)> / 2;
- flip: xi' = -(1 + beta) xi + c xi^3, c = <p, C(q, q, q) + 3 B(q, (1 - A)^-1 B(q, q))> / 6;
- Neimark-Sacker: z' = e^{i theta} z (1 + beta + d |z|^2), of which Re d is given,
  d = e^{-i theta} <p, C(q, q, q*) + 2 B(q, (1 - A)^-1 B(q, q*)) + B(q*, (e^{2 i theta} - A)^-1 B(q, q))> / 2;
- branch point: as for the fold, and where a vanishes (pitchfork) xi' = xi + c xi^3 with the c of the flip, (1 - A)
  inverted on the complement of q.

The state is x = x* + xi q + ..., or x* + z q + z* q* + .... Derivatives are directional (nested `jvp`), never tensors.
Reference: Yu. Kuznetsov (2004), *Elements of Applied Bifurcation Theory*, sections 4.5, 5.4 and 9.7.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from rnndyn._programs import compiled
from rnndyn.dynamics.bifurcations._systems import CycleSystem


class Derivatives:
    """B and C of the p-th iterate of a map at a point of a cycle, on real or complex vectors."""

    def __init__(self, system: CycleSystem, z: Float[np.ndarray, " n"], monodromy: Float[np.ndarray, "N N"]):
        self.system, self.z, self.monodromy = system, z, monodromy

    def second(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """B(u, v)."""
        parts = _pad([(a, b, a) for a in _parts(u) for b in _parts(v)], 8)
        values = np.asarray(_second_and_third(self.system, self.z, *parts)[0])
        weights = [s * t for s in _weights(u) for t in _weights(v)]
        return sum(w * value for w, value in zip(weights, values, strict=False))  # pyright: ignore[reportReturnType]

    def third(self, u: np.ndarray, v: np.ndarray, w: np.ndarray) -> np.ndarray:
        """C(u, v, w)."""
        parts = _pad([(a, b, c) for a in _parts(u) for b in _parts(v) for c in _parts(w)], 8)
        values = np.asarray(_second_and_third(self.system, self.z, *parts)[1])
        weights = [s * t * r for s in _weights(u) for t in _weights(v) for r in _weights(w)]
        return sum(w * value for w, value in zip(weights, values, strict=False))  # pyright: ignore[reportReturnType]


def fold_coefficient(d: Derivatives) -> float:
    """The quadratic coefficient a."""
    q, p = critical_vectors(d.monodromy, 1.0)
    return float(np.real(p @ d.second(q, q)) / 2)


def flip_coefficient(d: Derivatives) -> float:
    """The cubic coefficient c; positive for a supercritical flip, whose doubled cycle is stable. NaN at a fold-flip."""
    q, p = critical_vectors(d.monodromy, -1.0)
    h = _solve(np.eye(q.size) - d.monodromy, d.second(q, q))
    return float(np.real(p @ (d.third(q, q, q) + 3 * d.second(q, h))) / 6)


def pitchfork_coefficient(d: Derivatives) -> float:
    """The cubic coefficient c; negative for a supercritical pitchfork, whose arms are stable."""
    q, p = critical_vectors(d.monodromy, 1.0)
    bordered = np.block([[np.eye(q.size) - d.monodromy, q[:, None]], [p[None], np.zeros((1, 1))]])
    h = _solve(bordered, np.append(d.second(q, q), 0.0))[:-1]
    return float(np.real(p @ (d.third(q, q, q) + 3 * d.second(q, h))) / 6)


def neimark_sacker_coefficient(d: Derivatives, angle: float) -> float:
    """Re d; negative for a supercritical bifurcation, whose invariant circle is stable. NaN at the resonance 1:3."""
    mu = np.exp(1j * angle)
    q, p = critical_vectors(d.monodromy, mu)
    eye = np.eye(q.size)
    to_square = mu**2 * eye - d.monodromy
    if np.linalg.svd(to_square, compute_uv=False)[-1] < 1e-8:  # e^{2 i theta} is a multiplier itself
        return np.nan
    h11 = _solve(eye - d.monodromy, d.second(q, q.conj()))
    h20 = _solve(to_square, d.second(q, q))
    cubic = d.third(q, q, q.conj()) + 2 * d.second(q, h11) + d.second(q.conj(), h20)
    return float(np.real(np.conj(mu) * (p @ cubic)) / 2)


def _solve(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The solution, NaN where another multiplier is critical too: the normal form is another one there."""
    try:
        return np.linalg.solve(matrix, right)
    except np.linalg.LinAlgError:
        return np.full_like(right, np.nan)


def critical_vectors(
    matrix: Float[np.ndarray, "N N"], multiplier: complex | float
) -> tuple[Complex[np.ndarray, " N"] | Float[np.ndarray, " N"], Complex[np.ndarray, " N"] | Float[np.ndarray, " N"]]:
    """The right eigenvector q of length 1, its largest entry positive, and the left one as a row p with p @ q = 1."""
    left, _, right = np.linalg.svd(matrix - multiplier * np.eye(len(matrix)))
    q, p = right[-1].conj(), left[:, -1].conj()
    # The largest entry positive, so that the sign of a quadratic coefficient means something.
    largest = q[np.argmax(np.abs(q))]
    q = q * (abs(largest) / largest)
    overlap = p @ q
    with np.errstate(divide="ignore", invalid="ignore"):  # a double multiplier without a second eigenvector
        return q, p / overlap


@compiled
def _second_and_third(system: CycleSystem, z: Any, us: Any, vs: Any, ws: Any) -> tuple[Array, Array]:
    """B(u, v) and C(u, v, w): the second comes with the third."""
    iterated, x = _iterated(system, z)

    def once(u: Array, v: Array, w: Array) -> tuple[Array, Array]:
        def second(x: Array) -> Array:
            return jax.jvp(lambda x: jax.jvp(iterated, (x,), (u,))[1], (x,), (v,))[1]

        return jax.jvp(second, (x,), (w,))

    return jax.vmap(once)(jnp.asarray(us), jnp.asarray(vs), jnp.asarray(ws))


def _iterated(system: CycleSystem, z: Any) -> tuple[Any, Array]:
    z = jnp.asarray(z)
    q = z[system.num_states :]

    def iterated(x: Array) -> Array:
        def body(x: Array, _: Any) -> tuple[Array, None]:
            return system.step(jnp.concatenate([x, q])), None

        return jax.lax.scan(body, x, None, length=system.period)[0]

    return iterated, z[: system.num_units]


def _parts(v: np.ndarray) -> list[np.ndarray]:
    return [np.real(v), np.imag(v)] if _is_complex(v) else [np.real(v)]


def _weights(v: np.ndarray) -> list[complex | float]:
    return [1.0, 1j] if _is_complex(v) else [1.0]


def _is_complex(v: np.ndarray) -> bool:
    # By its entries: real eigenvectors come as complex numbers from some releases of NumPy.
    return bool(np.any(np.imag(v)))


def _pad(rows: list[tuple[np.ndarray, ...]], size: int) -> list[np.ndarray]:
    """The columns of `rows` as arrays of `size` rows: one compilation serves real and complex vectors."""
    rows = rows + [rows[0]] * (size - len(rows))
    return [np.stack(column) for column in zip(*rows, strict=True)]
