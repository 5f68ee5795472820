"""Newton's method for the parametrisation of an attracting invariant circle, in frames that the dynamics provides."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Complex, Float

Evaluate = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Points (M, N) to images (M, N) and Jacobians (M, N, N)."""

MAX_DOUBLINGS = 24
"""2^24 steps leave seven digits of a rotation by the rotation number; normal directions that contract by less than
a factor 2 in 1e6 steps are not told from neutral ones."""


class Circle(NamedTuple):
    """A closed curve gamma(theta), theta in [0, 1), sampled at theta = j / M, and how the map turns it."""

    samples: Float[np.ndarray, "M N"]
    rotation_number: float


class CircleNewton(NamedTuple):
    """How the iteration ended."""

    circle: Circle
    residual: float
    tail: float
    num_steps: int
    converged: bool


def solve_circle(evaluate: Evaluate, start: Circle, *, tol: float, max_steps: int, max_modes: int) -> CircleNewton:
    r"""Solve $F(\gamma(\theta)) = \gamma(\theta + \rho)$ for the curve and the rotation number.

    With the operator $(A\Delta)(\theta) = DF(\gamma(\theta - \rho)) \Delta(\theta - \rho)$ and the defect
    $E(\theta) = F(\gamma(\theta)) - \gamma(\theta + \rho)$ a Newton step is the solution of
    $\Delta = A\Delta + E(\theta - \rho) - \gamma' \delta\rho$. The tangent $\gamma'$ is invariant under A, and so is
    the covector w with $w \cdot \gamma' = 1$ that vanishes on the contracting directions. So the tangential part
    $a = w \cdot \Delta$ decouples,

    $$ a(\theta) - a(\theta - \rho) = w \cdot E(\theta - \rho) - \delta\rho, $$

    and is solved mode by mode: its mean gives $\delta\rho$, the free phase is left where it is. The rest is the sum
    of the powers of A, taken by doubling. A step costs O(M N^3) per doubling. Modes are doubled until the last ones
    are below `tol`.

    Reference: À. Haro, M. Canadell, J.-Ll. Figueras, A. Luque & J. M. Mondelo (2016), *The Parameterization Method for
    Invariant Manifolds*, chapters 4 and 5.
    """
    circle, best = start, None
    for step in range(max_steps):
        images, jacobians = evaluate(circle.samples)
        scale = float(np.max(np.ptp(circle.samples, axis=0)))
        defect = images - shifted(circle.samples, circle.rotation_number)
        residual = float(np.max(np.abs(defect))) / scale if np.isfinite(defect).all() and scale > 0 else np.inf
        tail = tail_of(circle.samples)
        if best is None or residual < best.residual:
            best = CircleNewton(circle, residual, tail, step, residual <= tol and tail <= tol)
        if best.converged or not np.isfinite(residual):
            break
        # Where the modes do not suffice no Newton step helps; a tail far below the residual does no harm.
        if tail > max(tol, 1e-2 * residual) and 2 * len(circle.samples) <= 2 * max_modes:
            circle = Circle(resampled(circle.samples, 2 * len(circle.samples)), circle.rotation_number)
            continue
        # Four doublings of the residual in a row would be overflow; a quasi-Newton step may raise it once.
        if residual > 1e3 * best.residual:
            break
        circle = _newton_step(circle, defect, jacobians)
        if circle is None:
            break
    assert best is not None  # max_steps is at least 1
    return best


def _newton_step(circle: Circle, defect: np.ndarray, jacobians: np.ndarray) -> Circle | None:
    samples, rho = circle
    tangent = derivative(samples)
    inhomogeneity = shifted(defect, -rho)
    cocycles = _doubled_cocycles(jacobians, rho)
    if cocycles is None:
        return None
    last, num_iterates = cocycles[-1], 2 ** (len(cocycles) - 1)
    # After many steps only the tangential direction is left: DF^n = gamma'(theta + n rho) w(theta)^T.
    ahead = shifted(tangent, num_iterates * rho)
    covector = np.einsum("mi,mij->mj", ahead, last) / np.sum(ahead**2, axis=1)[:, None]
    along = np.sum(covector * tangent, axis=1)
    if np.any(along == 0):
        return None
    covector /= along[:, None]

    def normal(field: np.ndarray) -> np.ndarray:
        return field - tangent * np.sum(covector * field, axis=1)[:, None]

    total = normal(inhomogeneity)
    for doubling, cocycle in enumerate(cocycles):
        moved = np.einsum("mij,mj->mi", cocycle, total)
        total = normal(total + shifted(moved, -(2**doubling) * rho))
    along = np.sum(covector * inhomogeneity, axis=1)
    change = float(np.mean(along))
    modes = np.fft.rfft(along - change)
    divisors = 1 - np.exp(-2j * np.pi * rho * np.arange(len(modes)))
    modes[0], divisors[0] = 0.0, 1.0
    # A mode that nearly resonates is left alone: what little it holds would be blown up.
    amplitudes = np.where(np.abs(divisors) > 1e-9, modes / np.where(divisors == 0, 1, divisors), 0.0)
    along = np.fft.irfft(amplitudes, len(along))
    new = samples + total + tangent * along[:, None]
    return Circle(new, rho + change) if np.isfinite(new).all() else None


def _doubled_cocycles(jacobians: np.ndarray, rho: float) -> list[np.ndarray] | None:
    """DF^n along the circle for n = 1, 2, 4, ... until only the tangential direction is left; `None` if it never is."""
    cocycles = [jacobians]
    for doubling in range(MAX_DOUBLINGS):
        current = cocycles[-1]
        # Growth along the tangent is bounded on a circle that turns like a rotation.
        if not np.isfinite(current).all() or np.max(np.abs(current)) > 1e8:
            return None
        values = np.linalg.svd(current, compute_uv=False)
        if np.any(values[:, 0] == 0):
            return None
        if values.shape[1] == 1 or np.max(values[:, 1] / values[:, 0]) < 1e-15:
            return cocycles
        cocycles.append(shifted(current, 2**doubling * rho) @ current)
    return cocycles


def shifted(samples: np.ndarray, shift: float) -> np.ndarray:
    """The values at theta + shift of a function given at theta = j / M, by its trigonometric interpolant."""
    num = len(samples)
    phases = np.exp(2j * np.pi * np.arange(num // 2 + 1) * (shift % 1.0))
    if num % 2 == 0:
        phases[-1] = phases[-1].real
    modes = np.fft.rfft(samples, axis=0)
    return np.fft.irfft(modes * phases.reshape(-1, *(1,) * (samples.ndim - 1)), num, axis=0)


def derivative(samples: np.ndarray) -> np.ndarray:
    """d/dtheta of a function given at theta = j / M."""
    num = len(samples)
    factors = 2j * np.pi * np.arange(num // 2 + 1)
    if num % 2 == 0:
        factors[-1] = 0.0
    return np.fft.irfft(np.fft.rfft(samples, axis=0) * factors[:, None], num, axis=0)


def resampled(samples: np.ndarray, num: int) -> np.ndarray:
    """The trigonometric interpolant at more points."""
    return np.fft.irfft(np.fft.rfft(samples, axis=0), num, axis=0) * (num / len(samples))


def tail_of(samples: np.ndarray) -> float:
    """The largest of the last quarter of the Fourier amplitudes, as a fraction of the spread."""
    modes = np.abs(np.fft.rfft(samples, axis=0)) / len(samples)
    return float(np.max(modes[3 * len(modes) // 4 :])) / float(np.max(np.ptp(samples, axis=0)))


def coefficients_of(samples: Float[np.ndarray, "M N"]) -> Complex[np.ndarray, "K N"]:
    """c_0, ..., c_{K-1} with gamma(theta) = c_0 + 2 Re sum_k c_k exp(2 pi i k theta)."""
    return np.fft.rfft(samples, axis=0)[: len(samples) // 2] / len(samples)
