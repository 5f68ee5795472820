"""Proofs that every input of a box makes a driven network forget where it started (the echo state property)."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rnndyn._programs import compiled
from rnndyn._validation import check_state
from rnndyn._verdicts import verdict_words
from rnndyn.dynamics.chaos._metric import find_metric, is_contraction, least_rate
from rnndyn.dynamics.chaos.verdicts import ContractionVerdict
from rnndyn.dynamics.numerics.drivers import let_in
from rnndyn.dynamics.proofs import interval_arithmetic as ia
from rnndyn.dynamics.proofs.interval_arithmetic import UNIT_ROUNDOFF, Interval, point
from rnndyn.dynamics.proofs.krawczyk import interval_precision
from rnndyn.dynamics.proofs.sector_forms import SectorForm, sector_form
from rnndyn.dynamics.proofs.set_images import image_of_set
from rnndyn.dynamics.proofs.verified_norms import (
    inverse,
    is_positive_definite,
    round_up,
    spectral_norm_bound,
    vector_norm_bound,
)
from rnndyn.results import Judged, is_verdict

_RADII = tuple(2.0**k for k in range(11))
_NUM_NARROWED = 5
_NUM_ELLIPSOIDS = 8
_WORTHWHILE = 0.01
_RELAXED = 0.12
_NUM_SETTLING = 1000
_NUM_PROBES = 8
_SEPARATES = 1e-2
# How much above the least rate of a metric the claim lies: the first leaves rounding errors their room.
_CLAIM_SLACKS = (4e-10, 4e-9, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)


def prove_contraction(
    g: Callable,
    lower: Array | np.ndarray,
    upper: Array | np.ndarray,
    *,
    state: Array | np.ndarray,
    region: tuple[Any, Any] | None = None,
    seed: int = 0,
) -> "ContractionProof":
    r"""Prove that x' = g(x, u) contracts in one metric for every sequence of inputs between two vectors.

    $$|g(x, u) - g(y, u)|_P \le \rho\, |x - y|_P, \qquad |x|_P^2 = x^T P x, \quad \rho < 1,$$

    for all x, y of a convex set that the inputs never lead out of, and all u of the box. Then there is one trajectory
    for each input sequence that all others approach at that rate: the network has the echo state property, and log rho
    bounds its largest conditional exponent from above, whatever the input does.

    **Arguments:**

    - `g`: the driven map (N,), (I,) -> (N,): linear operations, products and elementwise functions with interval rules.
    - `lower`, `upper`: the corners (I,) of the box of inputs.
    - `state`: any state (N,), which says how many units there are; trajectories are started from it.
    - `region`: a box (lower, upper) that the map never leaves. By default the smallest of [-1, 1], [-2, 2], ... that
        interval evaluation shows to be kept.
    - `seed`: of the inputs that are tried as counterexamples.

    **Returns:** a `ContractionProof`; where it is not `proved`, `counterexample` may hold an input that refutes it.

    **Raises:** `ValueError` for inputs that are no box; `NotImplementedError` for an operation without a rule.

    Differences of trajectories obey a linear system with one uncertain gain for each nonlinear operation, between the
    bounds of its slope on the set. P and multipliers are found by a Riccati iteration (circle criterion with free
    diagonal multipliers) and proved by one matrix inequality in outward-rounded arithmetic. First on the region; where
    the slopes are too free there, on an ellipsoid about the state that the middle input holds, which is then shown to
    be kept. Both are sufficient and not necessary.

    Jaeger (2001), *The "echo state" approach to analysing and training recurrent neural networks*; Yildiz, Jaeger &
    Kiebel (2012), *Re-visiting the echo state property*; Lohmiller & Slotine (1998), *On contraction analysis for
    non-linear systems*; Fazlyab et al. (2020), *Safety verification and robustness analysis of neural networks via
    quadratic constraints*.
    """
    check_state("state", state)
    low, high = (np.asarray(x, dtype=np.float64) for x in (lower, upper))
    if low.ndim != 1 or low.shape != high.shape or not (low <= high).all():
        raise ValueError(
            f"lower, upper: expected the corners (I,) of a box of inputs, got shapes {low.shape} and {high.shape}"
            + (" with lower above upper." if low.shape == high.shape else ".")
        )
    with interval_precision():
        start = np.asarray(state, dtype=np.float64)
        program = let_in(g, start, low, name="g")
        return _prove(program, low, high, start, region, seed)


class ContractionProof(Judged):
    """What was proved of the contraction of a driven map.

    **Fields:**

    - `rate`: rho, per step; at least 1 or infinite where nothing is proved. log rho bounds the conditional exponents.
    - `metric` P (N, N) and `multipliers` of the gains (m,).
    - `center` (N,), `reach` (N,): the box of states c ± reach, or the box around the ellipsoid.
    - `axes` (N, N): the ellipsoid c + A y, |y| <= 1, on which slopes were bounded; no columns for a box. `radius`: that
      of the kept ellipsoid |x - c|_P <= radius; infinite for a box.
    - `lower`, `upper`: the box of inputs. `counterexample`: an input (I,) that, held, lets nearby states separate, or
      no entries. `reason`: what stood in the way.
    - `core`: where every state of a box contracts, the proof of a smaller rate in an ellipsoid that is kept: every
      trajectory approaches those in it. `None` where there is none.
    """

    rate: float
    metric: Float[np.ndarray, "N N"]
    multipliers: Float[np.ndarray, " m"]
    center: Float[np.ndarray, " N"]
    reach: Float[np.ndarray, " N"]
    axes: Float[np.ndarray, "N _"]
    radius: float
    lower: Float[np.ndarray, " I"]
    upper: Float[np.ndarray, " I"]
    counterexample: Float[np.ndarray, " _"]
    result: ContractionVerdict
    reason: str
    core: "ContractionProof | None"

    @property
    def exponent_bound(self) -> float:
        """An upper bound of every conditional exponent: the log of the rate, in the core where there is one."""
        return float(np.log(self.rate if self.core is None else self.core.rate))

    @property
    def proved(self) -> bool:
        """Whether every input of the box contracts."""
        return bool(is_verdict(self.result, ContractionVerdict.everywhere, ContractionVerdict.in_ellipsoid))

    def table(self) -> str:
        if not self.proved:
            return f"ContractionProof: {self.reason}"
        where = (
            f"an ellipsoid of radius {self.radius:.3g} (P)" if np.isfinite(self.radius) else "every state of the box"
        )
        return (
            "ContractionProof: every input of the box contracts\n"
            f"  rate                        {self.rate:.6f} a step\n"
            f"  largest conditional exponent <= {self.exponent_bound:.4f}\n"
            f"  for                         {where}"
        )


# --- helpers


def _prove(
    g: Callable, low: np.ndarray, high: np.ndarray, start: np.ndarray, region: Any, seed: int
) -> ContractionProof:
    size = len(start)
    box = _region(g, low, high, size, region)
    rate_in_box = np.inf
    if box is not None:
        center, reach = box
        form = sector_form(g, center, reach, None, low, high)
        found = _proved_metric(form, size)
        if found is not None:
            rate_in_box = found[0]
            if rate_in_box < 1:
                none = np.zeros((size, 0))
                inner, _ = _ellipsoid(g, low, high, start)
                core = inner if inner is not None and inner.rate < rate_in_box else None
                return _proof(found, center, reach, none, np.inf, low, high, ContractionVerdict.everywhere, core)
    bad = _counterexample(g, low, high, start, seed)
    if bad is not None:
        return _refused(
            size,
            low,
            high,
            bad,
            ContractionVerdict.counterexample,
            f"{verdict_words(ContractionVerdict.counterexample)}.",
        )
    local, best = _ellipsoid(g, low, high, start)
    if local is not None:
        return local
    numbers = f"the best rate was {rate_in_box:.4g} on the region"
    numbers += "" if box is not None else " (none was found: give `region`)"
    numbers += f", {best:.4g} on an ellipsoid. A smaller box of inputs may help."
    return _refused(
        size,
        low,
        high,
        np.zeros(0),
        ContractionVerdict.open,
        f"{verdict_words(ContractionVerdict.open)}: {numbers}",
    )


def _proved_metric(form: SectorForm, size: int, relaxed: float = 0.0) -> tuple[float, np.ndarray, np.ndarray] | None:
    """A metric whose inequality is verified, at the least of a few rates above the one found."""
    found = find_metric(form, size, relaxed)
    if found is None:
        return None
    rate, metric, scales = found
    largest = np.max(np.abs(metric))
    metric, scales = 0.5 * (metric + metric.T) / largest, scales / largest
    rate = min(rate, least_rate(form, metric, scales))
    for slack in _CLAIM_SLACKS:
        if is_contraction(form, metric, scales, rate * (1 + slack)):
            return rate * (1 + slack), metric, scales
    return None


def _region(
    g: Callable, low: np.ndarray, high: np.ndarray, size: int, region: Any
) -> tuple[np.ndarray, np.ndarray] | None:
    """A box of states that all inputs keep, as centre and reach, narrowed by a few images of itself."""
    if region is not None:
        ends = [np.broadcast_to(np.asarray(end, float), (size,)) for end in region]
        box = Interval(*ends)
    else:
        for radius in _RADII:
            box = Interval(np.full(size, -radius), np.full(size, radius))
            out = _values(g, box, low, high)
            if np.all(out.lo >= box.lo) and np.all(out.hi <= box.hi):
                break
        else:
            return None
    for _ in range(_NUM_NARROWED):
        box = ia.intersect(box, _values(g, box, low, high))
    center = 0.5 * (box.lo + box.hi)
    return center, np.asarray(round_up(np.maximum(box.hi - center, center - box.lo), 4))


def _values(g: Callable, box: Interval, low: np.ndarray, high: np.ndarray) -> Interval:
    center = 0.5 * (box.lo + box.hi)
    reach = np.asarray(round_up(np.maximum(box.hi - center, center - box.lo), 4))
    return sector_form(g, center, reach, None, low, high).value


def _ellipsoid(
    g: Callable, low: np.ndarray, high: np.ndarray, start: np.ndarray
) -> tuple[ContractionProof | None, float]:
    """An ellipsoid about the state of the middle input that is kept and contracts; and the best rate met."""
    size = len(start)
    center = np.asarray(_settled(g, start, 0.5 * (low + high)))
    if not np.isfinite(center).all():
        return None, np.inf
    nothing = np.full((size, size), 0.0)
    response = _response(g, center, low, high)
    form = sector_form(g, center, np.zeros(size), nothing, low, high)
    found = find_metric(form, size, _RELAXED)
    if found is None:
        return None, np.inf
    best = found[0]
    axes = _half_inverse(found[1]) * 1.3 * _offset(response, found[1]) / (1 - min(found[0], 0.99))
    proof = None
    for _ in range(_NUM_ELLIPSOIDS):
        reach = np.asarray(vector_norm_bound(point(axes)))
        form = sector_form(g, center, reach, axes, low, high)
        found = _proved_metric(form, size, _RELAXED)
        if found is None or not found[0] < 1:
            break
        best = min(best, found[0])
        rate, metric, _ = found
        radius = float(round_up(_offset(response, metric) / np.nextafter(1 - rate, 0), 4)) * 1.001 + 1e-12
        # |x|_P <= radius lies in the ellipsoid of the slopes if |A^-1 P^-1/2| radius <= 1, with P = L L'.
        factor = np.linalg.cholesky(metric)
        larger = 1.2
        if _is_inside(axes, factor, metric, radius):
            last, proof = proof, _proof(found, center, reach, axes, radius, low, high, ContractionVerdict.in_ellipsoid)
            if last is not None and rate > last.rate * (1 - _WORTHWHILE):
                return (proof if rate < last.rate else last), best
            # Slopes are less free in a smaller ellipsoid, and this one has room.
            larger = 1.03
        axes = _half_inverse(metric) * radius * larger
    return proof, best


def _is_inside(axes: np.ndarray, factor: np.ndarray, metric: np.ndarray, radius: float) -> bool:
    """Whether |x|_P <= radius implies |A^-1 x| <= 1: with P >= (1 - e) F F', the norm of A^-1 F'^-1 is bounded."""
    smaller = factor * np.sqrt(1 - 1e-9)
    rest = ia.sub(point(metric), ia.matmul(point(smaller), point(smaller.T)))
    if not is_positive_definite(rest):
        return False
    product = ia.matmul(inverse(point(axes)), inverse(point(smaller.T.copy())))
    return bool(round_up(spectral_norm_bound(product) * radius, 1) <= 1)


def _half_inverse(metric: np.ndarray) -> np.ndarray:
    """A with |A^-1 x| = |x|_P."""
    return np.linalg.inv(np.linalg.cholesky(metric).T)


class _AtState(eqx.Module):
    """The driven map as a function of its input alone; states share a compilation."""

    g: Callable
    state: Any

    def __call__(self, input: Any) -> Any:
        return self.g(self.state, input)


@dataclasses.dataclass(frozen=True)
class _Response:
    """What a step from the centre does under the inputs of the box: g(c, m + h w) = c + shift + L w, |w_k| <= 1.

    - `shift`: (N,); `slopes` L: (N, I), enclosures, `None` where g has none along its input. `away`: bounds |g - c|.
    """

    shift: Interval
    slopes: Interval | None
    away: Float[np.ndarray, " N"]


def _response(g: Callable, center: np.ndarray, low: np.ndarray, high: np.ndarray) -> _Response:
    nothing = np.zeros_like(center)
    value = sector_form(g, center, nothing, None, low, high).value
    shift = ia.sub(value, point(center))
    away = np.asarray(ia.magnitude(shift))
    count = len(low)
    if count == 0:
        return _Response(shift, None, away)
    middle = 0.5 * (low + high)
    half = np.asarray(round_up(np.maximum(high - middle, middle - low), 2))
    # The ball around the box, in which inputs are enclosed.
    axes = np.diag(np.asarray(round_up(half * np.sqrt(count), 4)))
    found = jax.device_get(image_of_set(_AtState(g, center), middle, np.zeros(count), axes, count))
    if not found.is_known:
        return _Response(shift, None, away)
    share = 1 / np.sqrt(count)
    unit = Interval(np.asarray(share * (1 - 8 * UNIT_ROUNDOFF)), np.asarray(share * (1 + 8 * UNIT_ROUNDOFF)))
    slopes = ia.mul(found.derivative, unit)
    return _Response(ia.sub(found.center, point(center)), slopes.map(np.asarray), away)


def _offset(response: _Response, metric: np.ndarray) -> float:
    """An upper bound of |g(c, u) - c|_P over the inputs: c is taken for the centre of the ellipsoid."""
    away = point(response.away)
    size = ia.matmul(point(np.abs(metric)), point(away.lo[:, None]))
    # x' P x <= |x|' |P| |x|, and a bound by the factor of P is smaller as a rule.
    crude = float(np.sqrt(ia.matmul(point(away.lo[None]), size).hi[0, 0]))
    root = np.linalg.cholesky(metric).T
    # Cholesky's backward error is below 2 (N + 1) u tr P, so that |x|_P <= |F x| + the root of it |x|.
    loss = np.sqrt(4 * (len(metric) + 8) * UNIT_ROUNDOFF * np.trace(metric)) * np.linalg.norm(away.lo)
    fine = _length(root, response.shift)
    if response.slopes is not None:
        # Each input moves the image along a line, so that few inputs fill much less than the box around it.
        fine += sum(
            _length(root, response.slopes.map(lambda end, k=k: end[:, k])) for k in range(response.slopes.shape[1])
        )
    return float(round_up(min(crude, float((fine + loss) * (1 + 1e-9))), 4))


def _length(root: np.ndarray, x: Interval) -> float:
    """|F x| in the enclosure, with the rounding errors of the product."""
    middle = np.asarray(ia.midpoint(x))
    spread = np.asarray(ia.radius_about(x, middle)) + 2 * (len(root) + 8) * UNIT_ROUNDOFF * np.abs(middle)
    return float(np.linalg.norm(np.abs(root @ middle) + np.abs(root) @ spread))


@compiled
def _settled(g: Callable, start: Any, input: Any) -> Array:
    return jax.lax.fori_loop(0, _NUM_SETTLING, lambda _, x: g(x, input), jnp.asarray(start))


@compiled
def _exponents(g: Callable, start: Any, inputs: Any) -> Array:
    """The growth of a random difference under each input, held."""

    def one(input: Array) -> Array:
        x = jax.lax.fori_loop(0, _NUM_SETTLING, lambda _, x: g(x, input), jnp.asarray(start))
        v = jnp.ones_like(x) / jnp.sqrt(x.size)

        def step(carry: Any, _: None) -> Any:
            x, v, total = carry
            y, w = jax.jvp(lambda z: g(z, input), (x,), (v,))
            size = jnp.linalg.norm(w)
            return (y, w / size, total + jnp.log(size)), None

        (_, _, total), _ = jax.lax.scan(step, (x, v, 0.0), None, length=_NUM_SETTLING)
        return jnp.asarray(total / _NUM_SETTLING)

    return jax.lax.map(one, jnp.asarray(inputs))


def _counterexample(g: Callable, low: np.ndarray, high: np.ndarray, start: np.ndarray, seed: int) -> np.ndarray | None:
    """An input of the box under which, held, a small difference grows."""
    share = np.random.default_rng(seed).uniform(size=(_NUM_PROBES, len(low)))
    share[:3] = np.array([0.5, 0.0, 1.0])[:, None]
    inputs = low + share * (high - low)
    found = np.asarray(_exponents(g, start + 1e-3, inputs))
    worst = int(np.nanargmax(np.where(np.isfinite(found), found, -np.inf)))
    return inputs[worst] if found[worst] > _SEPARATES else None


def _proof(found, center, reach, axes, radius: float, low, high, verdict: Any, core: Any = None) -> ContractionProof:
    rate, metric, scales = found
    return ContractionProof(
        rate, metric, scales, center, reach, axes, radius, low, high, np.zeros(0), verdict, "", core
    )


def _refused(size: int, low, high, bad: np.ndarray, verdict: Any, reason: str) -> ContractionProof:
    none = np.zeros(size)
    return ContractionProof(
        np.inf,
        np.zeros((size, size)),
        np.zeros(0),
        none,
        none,
        np.zeros((size, 0)),
        np.inf,
        low,
        high,
        bad,
        verdict,
        reason,
        None,
    )
