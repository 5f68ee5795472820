"""Tubes that no input of a box leads out of: what the last inputs do, to first order, and an ellipsoid for the rest."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from rnndyn._programs import compiled
from rnndyn.dynamics.chaos._metric import ProvedMetric, find_metric, proved_metric
from rnndyn.dynamics.chaos._separation import settled
from rnndyn.dynamics.chaos.contraction_proof import ContractionProof
from rnndyn.dynamics.chaos.verdicts import ContractionVerdict
from rnndyn.dynamics.proofs import interval_arithmetic as ia
from rnndyn.dynamics.proofs.affine_forms import AffineForm
from rnndyn.dynamics.proofs.affine_images import affine_image
from rnndyn.dynamics.proofs.interval_arithmetic import UNIT_ROUNDOFF, point
from rnndyn.dynamics.proofs.sector_forms import sector_form
from rnndyn.dynamics.proofs.verified_norms import (
    inverse,
    is_positive_definite,
    round_up,
    spectral_norm_bound,
    vector_norm_bound,
)

_NUM_TUBES = 8
_WORTHWHILE = 0.01
# Shares of the logarithm of the rate that are given away for a rounder ellipsoid.
_RELAXED = (0.02, 0.12, 0.35, 0.6)
_MOST_STEPS, _MOST_COLUMNS = 64, 192
_FADED = 1e-6


def tube(g: Callable, low: np.ndarray, high: np.ndarray, start: np.ndarray) -> tuple[ContractionProof | None, float]:
    r"""A tube about the state of the middle input that is kept and contracts; and the best rate met.

    The tube is all c + G w + d, |w_k| <= 1, |d|_P <= s. With G = (B, A B, A² B, ...) for the linear parts A, B of
    g(x, m + h v) it is kept if for every w and v

    $$|g(c + G w, m + h v) - (c + G w')|_P \le (1 - \rho) s, \qquad w' = (v, w_1, w_2, \dots),$$

    because g brings c + G w + d and c + G w together at the rate rho. What is on the left is only what is curved,
    and what the inputs that are forgotten still do. Without columns in G it is an ellipsoid.
    """
    center = np.asarray(settled(g, start, 0.5 * (low + high)))
    if not np.isfinite(center).all():
        return None, np.inf
    best = np.inf
    for num_steps in (max(1, min(_MOST_STEPS, _MOST_COLUMNS // max(1, len(low)))), 0):
        skeleton = _skeleton(g, center, low, high, num_steps)
        if skeleton is None:
            continue
        for relaxed in _RELAXED:
            proof, rate = _around(g, center, low, high, skeleton, relaxed)
            best = min(best, rate)
            if proof is not None:
                return proof, best
    return None, best


@dataclasses.dataclass(frozen=True)
class _Skeleton:
    """The columns G (N, M) of a tube, and the image of all c + G w under all inputs, m + h v.

    It lies in `center` + `columns` (v, w) ± `spread`; (N,), (N, I + M) and (N,).
    """

    generators: Float[np.ndarray, "N M"]
    center: Float[np.ndarray, " N"]
    columns: Float[np.ndarray, "N _"]
    spread: Float[np.ndarray, " N"]


@compiled
def _image(f: Callable, center: Any, generators: Any) -> AffineForm:
    return affine_image(f, AffineForm(jnp.asarray(center), jnp.asarray(generators), jnp.zeros_like(center)))


class _Joint(eqx.Module):
    """The driven map as a function of state and input in one vector."""

    g: Callable
    size: int = eqx.field(static=True)

    def __call__(self, both: Any) -> Any:
        return self.g(both[: self.size], both[self.size :])


def _skeleton(g: Callable, center: np.ndarray, low: np.ndarray, high: np.ndarray, num_steps: int) -> _Skeleton | None:
    """Columns that the map shifts by one step, found by letting it shift them; `None` where g has no enclosure."""
    size, count = len(center), len(low)
    middle = 0.5 * (low + high)
    half = np.asarray(round_up(np.maximum(high - middle, middle - low), 2))
    joint, both = _Joint(g, size), np.concatenate([center, middle])
    generators = np.zeros((size, num_steps * count))
    rounds = 2 * num_steps + 1
    for step in range(rounds):
        axes = np.zeros((max(count, 1) + generators.shape[1], size + count))
        axes[:count, size:] = np.diag(half)
        axes[max(count, 1) :, :size] = generators.T
        form = jax.device_get(_image(joint, both, axes))
        if not (np.isfinite(form.center).all() and np.isfinite(form.spread).all()):
            return None
        columns = np.zeros((size, len(axes))) if form.generators is None else form.generators.T
        following = columns[:, : generators.shape[1]]
        change, whole = (float(np.linalg.norm(x)) for x in (following - generators, following))
        if change <= _FADED * whole or step == rounds - 1:
            return _Skeleton(generators, form.center, columns, form.spread)
        generators = following
    return None


def _around(
    g: Callable, center: np.ndarray, low: np.ndarray, high: np.ndarray, skeleton: _Skeleton, relaxed: float
) -> tuple[ContractionProof | None, float]:
    """The thinnest tube around a skeleton that was found to be kept, and the best rate met."""
    size, generators = len(center), skeleton.generators

    def form_on(axes: np.ndarray) -> Any:
        both = np.concatenate([generators, axes], axis=1)
        return sector_form(g, center, _reach(generators, axes), both, low, high, generators.shape[1])

    found = find_metric(form_on(np.zeros((size, size))), size, relaxed)
    if found is None:
        return None, np.inf
    best = found[0]
    axes = _half_inverse(found[1]) * 1.3 * _residual(skeleton, center, found[1]) / (1 - min(found[0], 0.99))
    proof = None
    for _ in range(_NUM_TUBES):
        found = proved_metric(form_on(axes), size, relaxed)
        if found is None or not found[0] < 1:
            break
        best = min(best, found[0])
        rate, metric = found.rate, found.metric
        radius = float(round_up(_residual(skeleton, center, metric) / np.nextafter(1 - rate, 0), 4)) * 1.001 + 1e-12
        larger = 1.2
        if _is_inside(axes, metric, radius):
            last, proof = proof, _proof(found, center, generators, axes, radius, low, high)
            if last is not None and rate > last.rate * (1 - _WORTHWHILE):
                return (proof if rate < last.rate else last), best
            # Slopes are less free in a thinner tube, and this one has room.
            larger = 1.03
        axes = _half_inverse(metric) * radius * larger
    return proof, best


def _reach(generators: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """How far c + G w + A y is from c, in each coordinate."""
    along = np.abs(generators).sum(axis=1)
    return np.asarray(round_up(along + vector_norm_bound(point(axes)), generators.shape[1] + 2))


def _residual(skeleton: _Skeleton, center: np.ndarray, metric: np.ndarray) -> float:
    """An upper bound of |g(c + G w, u) - (c + G w')|_P over w and the inputs."""
    generators = skeleton.generators
    # Columns of the image: of the inputs, of the newest columns, and so on: each less what it becomes.
    middle, columns = skeleton.center - center, skeleton.columns.copy()
    columns[:, : generators.shape[1]] -= generators
    spread = skeleton.spread + 2 * UNIT_ROUNDOFF * (np.abs(middle) + np.abs(columns).sum(axis=1))
    root = np.linalg.cholesky(metric).T
    rounding = 2 * (len(root) + columns.shape[1] + 8) * UNIT_ROUNDOFF
    total = np.abs(middle) + np.abs(columns).sum(axis=1)
    blur = np.linalg.norm(np.abs(root) @ (spread + rounding * (total + spread)))
    fine = np.linalg.norm(root @ middle) + np.linalg.norm(root @ columns, axis=0).sum() + blur
    # Cholesky's backward error is below 2 (N + 1) u tr P, so that |x|_P <= |F x| + the root of it |x|.
    away = np.linalg.norm(total + spread)
    loss = np.sqrt(4 * (len(metric) + 8) * UNIT_ROUNDOFF * np.trace(metric)) * away
    # x' P x <= |x|' |P| |x|, which is smaller where the factor has large entries.
    sizes = (total + spread) * (1 + rounding)
    crude = np.sqrt(sizes @ np.abs(metric) @ sizes)
    return float(round_up(min(crude, fine + loss) * (1 + 1e-9), 4))


def _is_inside(axes: np.ndarray, metric: np.ndarray, radius: float) -> bool:
    """Whether |x|_P <= radius implies |A^-1 x| <= 1: with P >= (1 - e) F F', the norm of A^-1 F'^-1 is bounded."""
    smaller = np.linalg.cholesky(metric) * np.sqrt(1 - 1e-9)
    rest = ia.sub(point(metric), ia.matmul(point(smaller), point(smaller.T)))
    if not is_positive_definite(rest):
        return False
    product = ia.matmul(inverse(point(axes)), inverse(point(smaller.T.copy())))
    return bool(round_up(spectral_norm_bound(product) * radius, 1) <= 1)


def _half_inverse(metric: np.ndarray) -> np.ndarray:
    """A with |A^-1 x| = |x|_P."""
    return np.linalg.inv(np.linalg.cholesky(metric).T)


def _proof(
    found: ProvedMetric,
    center: np.ndarray,
    generators: np.ndarray,
    axes: np.ndarray,
    radius: float,
    low: Any,
    high: Any,
) -> ContractionProof:
    return ContractionProof(
        **found._asdict(),
        center=center,
        reach=_reach(generators, axes),
        generators=generators,
        axes=axes,
        radius=radius,
        lower=low,
        upper=high,
        counterexample=np.zeros(0),
        result=ContractionVerdict.in_tube,
        reason="",
        core=None,
    )
