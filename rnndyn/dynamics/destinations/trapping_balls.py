"""Balls around stable points and cycles that the map takes into themselves, and whose states all end there."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rnndyn.dynamics.destinations._metrics import metrics
from rnndyn.dynamics.destinations._orbits import Points, as_cycles, check_stable, jacobians_along
from rnndyn.dynamics.destinations._sets import Balls, Ellipsoids, enclose_sets, image_radii
from rnndyn.dynamics.destinations.verdicts import BallVerdict
from rnndyn.dynamics.numerics.drivers import let_in, map_in_chunks
from rnndyn.dynamics.numerics.eigenvalues import orbit_product
from rnndyn.dynamics.proofs import interval_arithmetic as ia
from rnndyn.dynamics.proofs import verified_norms as vn
from rnndyn.dynamics.proofs.gain_forms import gain_forms, gain_norms
from rnndyn.dynamics.proofs.interval_arithmetic import Interval, point
from rnndyn.dynamics.proofs.krawczyk import interval_precision
from rnndyn.results import Judged, first_verdict, is_verdict

_CLAIM_SLACK = 1e-10
"""What is claimed of a ball exceeds what was computed by this share, so that a checker with other roundings agrees."""
_OFFSET_SLACK = 5e-10
"""The same of offsets, which are mere rounding: as a share of the radius."""

_TEMPERS = (0.2, 0.5, 0.8)
"""How far the rate that a metric is made for lies between the spectral radius and 1: each is tried."""

_FEW_UNITS = 16
"""For so few units bounds of the entries of a derivative are sharp enough."""
_PLAIN_ENOUGH, _HOPELESS = 1.0, 4.0
"""Between these rates by bounds of entries a sharper bound is worth its cost."""
_GAINS_CHUNK = 8

_NUM_SHRINKS = 24
_NUM_BISECTIONS = 6


def prove_trapping_balls(f: Callable[[Array], Array], points: Points) -> "TrappingBalls":
    r"""Prove a ball around each stable point or cycle from which every state ends there.

    With $|x|_Q = |Q^{-1} x|_2$, centres $c_j$ near the points of a cycle (of one point: a fixed point) and balls
    $B_j = \{|x - c_j|_{Q_j} \le r\}$, the inequalities

    $$ |F(c_j) - c_{j+1}|_{Q_{j+1}} + q_j\, r \le r, \qquad
       q_j \ge \sup_{x \in B_j} |Q_{j+1}^{-1} DF(x)\, Q_j|_2, \quad q_j < 1 $$

    say that F takes $B_j$ into $B_{j+1}$ and brings any two states of it closer. So exactly one orbit stays in the
    balls for all times, a cycle of period p or a divisor of it, and every state of a ball converges to it.

    **Arguments:**

    - `f`: the map, `(N,) -> (N,)`, made of the operations that `docs/certificates.md` lists.
    - `points`: stable fixed points (K, N), stable cycles (K, p, N) such as `Cycles.points`, or a list of such arrays.

    **Returns:** `TrappingBalls`. A point without a ball has a verdict that says why.

    **Raises:** `ValueError` for points that are no finite states, that f does not keep, that are unstable, or of which
    two are the same; `NotImplementedError` naming the operation when f uses one without an interval rule.

    The metric comes from the discrete Lyapunov equation of the cycle, $Q_j^{-T} Q_j^{-1} = P_j = I + J_j' P_{j+1} J_j
    / \rho^2$, for several rates $\rho$ between the spectral radius and 1; the radius is the largest that passes, by
    bisection. Only the inequalities are evaluated in outward rounded arithmetic, over the balls themselves
    (`enclose_balls`).
    """
    cycles = as_cycles("points", points)
    with interval_precision():
        f = let_in(f, cycles[0][0])
        jacobians = [np.asarray(jacobians_along(f, cycle)) for cycle in cycles]
        check_stable(f, cycles, jacobians)
        best = [_Candidate.none(cycle) for cycle in cycles]
        for temper in _TEMPERS:
            factors = [metrics(j, temper) for j in jacobians]
            for k, found in enumerate(_largest_balls(f, cycles, factors)):
                best[k] = found if found.is_better_than(best[k]) else best[k]
    balls = _assemble(cycles, best, jacobians)
    balls.check_distinct()
    return balls


class TrappingBalls(Judged):
    """Balls around M points of K fixed points and cycles; the rows of a cycle follow each other in its order.

    - `centers`: $c_j$, (M, N); `factors`: $Q_j$, (M, N, N); `radii`: $r$, (M,), zero where nothing was proved.
    - `owners`: which of the K fixed points or cycles each row belongs to, (M,).
    - `offsets`: claimed upper bounds of $|F(c_j) - c_{j+1}|_{Q_{j+1}}$, (M,).
    - `rates`: claimed upper bounds of $q_j$, (M,).
    - `multipliers`: of the V gains with which a rate holds (`docs/proofs_basins.md`), (M, V); zeros for a rate that
        bounds of the entries of DF give.
    - `result`: a batch (K,) of `BallVerdict`; `reasons`: K texts, which inequality stood in the way and by how much;
        empty where a ball is proved.
    """

    centers: Float[np.ndarray, "M N"]
    factors: Float[np.ndarray, "M N N"]
    radii: Float[np.ndarray, " M"]
    owners: Int[np.ndarray, " M"]
    offsets: Float[np.ndarray, " M"]
    rates: Float[np.ndarray, " M"]
    multipliers: Float[np.ndarray, "M V"]
    result: BallVerdict
    reasons: tuple[str, ...]

    @property
    def proved(self) -> Bool[np.ndarray, " K"]:
        """Which of the K fixed points and cycles have a ball."""
        return is_verdict(self.result, BallVerdict.proved)

    @property
    def periods(self) -> Int[np.ndarray, " K"]:
        """How many points each has."""
        return np.bincount(self.owners)

    @property
    def successors(self) -> Int[np.ndarray, " M"]:
        """The row that each row is taken into."""
        rows = np.arange(len(self.owners))
        first = np.flatnonzero(np.diff(self.owners, prepend=-1))
        is_last = np.diff(self.owners, append=-1) != 0
        return np.where(is_last, first[self.owners], rows + 1)

    @property
    def inner_radii(self) -> Float[np.ndarray, " M"]:
        """The radius of the largest Euclidean ball inside each."""
        return self.radii * np.linalg.svd(self.factors, compute_uv=False)[:, -1]

    @property
    def outer_radii(self) -> Float[np.ndarray, " M"]:
        """The longest semi-axis of each."""
        return self.radii * np.linalg.norm(self.factors, 2, axis=(1, 2))

    def __len__(self) -> int:
        return int(self.owners[-1]) + 1

    def targets(self, share: float = 1.0) -> tuple[Balls, np.ndarray]:
        """The proved balls, shrunk to a share at which they trap too, and the row of each."""
        radii = self.radii * share
        traps = (radii > 0) & (vn.round_up(self.offsets + vn.round_up(self.rates * radii)) <= radii)
        # All points of a cycle, or none.
        rows = np.flatnonzero(np.isin(self.owners, self.owners[~traps], invert=True))
        return Balls(self.centers[rows], vn.inverse(point(self.factors[rows])), radii[rows]), rows

    def check_distinct(self) -> None:
        """Raise where two of the fixed points and cycles are one: each ball holds only one orbit for all times."""
        for j in np.flatnonzero(self.radii > 0):
            away = np.linalg.norm(np.linalg.solve(self.factors[j], (self.centers - self.centers[j]).T), axis=0)
            same = np.flatnonzero((away < self.radii[j]) & (self.owners != self.owners[j]))
            if same.size:
                first, second = sorted((int(self.owners[j]), int(self.owners[same[0]])))
                raise ValueError(
                    f"points: rows {first} and {second} are the same fixed point or cycle: one lies in the trapping "
                    "ball of the other. Pass each of them once."
                )

    def table(self) -> str:
        lines = [f"TrappingBalls: {int(self.proved.sum())} of {len(self)} proved"]
        lines.append("  point  period  rate per step  inner radius  outer radius")
        inner, outer = self.inner_radii, self.outer_radii
        for k in range(min(len(self), 20)):
            own = self.owners == k
            rate = np.prod(self.rates[own]) ** (1 / own.sum())
            text = (
                f"{rate:13.4f}  {inner[own].min():12.2e}  {outer[own].max():12.2e}"
                if self.proved[k]
                else self.reasons[k]
            )
            lines.append(f"  {k:5d}  {int(own.sum()):6d}  {text}")
        if len(self) > 20:
            lines.append(f"  ... and {len(self) - 20} more")
        return "\n".join(lines)


def trapping_balls_of(f: Callable[[Array], Array], points: Points | TrappingBalls) -> TrappingBalls:
    """The balls of points; where they are given, they are shown to be of this map and not of another one."""
    if not isinstance(points, TrappingBalls):
        return prove_trapping_balls(f, points)
    rows = np.flatnonzero(points.radii > 0)
    if rows.size:
        with interval_precision():
            f = let_in(f, points.centers[0])
            sets = Ellipsoids(points.centers[rows], points.factors[rows], points.radii[rows])
            after = points.successors[rows]
            inverses = vn.inverse(point(points.factors[after]))
            offsets, rates = ball_bounds(f, sets, points.centers[after], inverses)
            rates, _ = sharper_rates(f, sets, inverses, rates)
        # Computed again, from another program of the same map, they differ by rounding: the claims have room for that.
        claimed_offsets, claimed_rates = points.offsets[rows], points.rates[rows]
        holds = (offsets <= claimed_offsets) & (rates <= claimed_rates) & (claimed_rates < 1)
        holds &= vn.round_up(claimed_offsets + vn.round_up(claimed_rates * sets.radii)) <= sets.radii
        if not holds.all():
            raise ValueError(
                f"points: row {rows[np.argmin(holds)]} of these trapping balls is not taken into its successor by this "
                "map. Were they proved for another map, or another input? Pass the points themselves."
            )
    return points


# --- helpers


class _Candidate(NamedTuple):
    """The largest proved balls of one cycle with one metric; with radius zero the attempt that came nearest to it."""

    factors: np.ndarray
    radius: float
    offsets: np.ndarray
    rates: np.ndarray
    multipliers: np.ndarray
    tried: float
    """The radius that offsets and rates are of."""

    @classmethod
    def none(cls, cycle: np.ndarray) -> "_Candidate":
        period, size = cycle.shape
        eye = np.broadcast_to(np.eye(size), (period, size, size))
        return cls(eye, 0.0, np.full(period, np.inf), np.full(period, np.inf), np.zeros((period, 0)), np.nan)

    @property
    def reach(self) -> np.ndarray:
        """How far the image of each ball goes, in radii: at most 1 for a proof, and the rate below 1."""
        return np.maximum(self.rates + self.offsets / self.tried, self.rates)

    def is_better_than(self, other: "_Candidate") -> bool:
        """A larger radius, that of the largest Euclidean ball inside: the shortest semi-axis of the factors is 1."""
        if self.radius or other.radius:
            return self.radius > other.radius
        return bool(np.isfinite(self.reach).all() and not self.reach.max() >= other.reach.max())

    def words(self, spectral_radius: float) -> str:
        """What stood in the way of a ball, and what may help."""
        if self.radius:
            return ""
        if not np.isfinite(self.rates).all():
            return "f is not known to be finite and smooth around it, however small the ball"
        j = int(np.argmax(self.reach))
        words = (
            f"at radius {self.tried:.2g} the ball of its point {j} reaches {self.reach[j]:.6g} times the radius of the "
            f"next one: |DF| is at most {self.rates[j]:.6g} and |F(c) - c'| at most {self.offsets[j]:.2g}"
        )
        if self.rates[j] < 1:
            return f"{words}; polish the point"
        return f"{words}; its largest multiplier has the modulus {spectral_radius:.8g} per step"


def _largest_balls(f: Callable, cycles: list[np.ndarray], factors: list[np.ndarray]) -> list[_Candidate]:
    """For each cycle the largest radius that passes: shrunk from one that is too large, then bisected."""
    best = [_Candidate.none(cycle) for cycle in cycles]
    usable = [np.isfinite(q).all() for q in factors]
    spread = max(np.max(np.abs(np.concatenate(cycles))), 1e-3)
    low = np.zeros(len(cycles))
    high = np.full(len(cycles), 4 * spread)
    for round_ in range(_NUM_SHRINKS + _NUM_BISECTIONS):
        trial = np.where(low > 0, np.sqrt(np.maximum(low, 1e-300) * high), high / 2 if round_ == 0 else high / 3)
        open_ = [k for k in range(len(cycles)) if usable[k] and (low[k] > 0 or round_ < _NUM_SHRINKS)]
        open_ = [k for k in open_ if high[k] > 1.05 * low[k]]
        if not open_:
            break
        passed = _try(f, [cycles[k] for k in open_], [factors[k] for k in open_], trial[open_])
        for k, (offsets, rates, multipliers) in zip(open_, passed):
            reach = offsets + rates * trial[k] * (1 + 4e-16)
            if np.all(rates < 1) and np.all(vn.round_up(reach) <= trial[k]):
                low[k] = trial[k]
                best[k] = _Candidate(factors[k], float(trial[k]), offsets, rates, multipliers, float(trial[k]))
            else:
                high[k] = trial[k]
                failed = _Candidate(factors[k], 0.0, offsets, rates, multipliers, float(trial[k]))
                best[k] = failed if failed.is_better_than(best[k]) else best[k]
    return best


def _try(
    f: Callable, cycles: list[np.ndarray], factors: list[np.ndarray], radii: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Claims of offsets and rates, with multipliers, of every cycle, at the given radius."""
    lengths = [len(cycle) for cycle in cycles]
    sets = Ellipsoids(np.concatenate(cycles), np.concatenate(factors), np.repeat(radii, lengths))
    following = np.concatenate([np.roll(cycle, -1, axis=0) for cycle in cycles])
    inverses = vn.inverse(point(np.concatenate([np.roll(q, -1, axis=0) for q in factors])))
    offsets, rates = ball_bounds(f, sets, following, inverses)
    rates, multipliers = sharper_rates(f, sets, inverses, rates)
    offsets = offsets * (1 + _CLAIM_SLACK) + sets.radii * _OFFSET_SLACK
    rates = rates * (1 + _CLAIM_SLACK)
    ends = np.cumsum(lengths)[:-1]
    return list(zip(np.split(offsets, ends), np.split(rates, ends), np.split(multipliers, ends)))


def ball_bounds(
    f: Callable, sets: Ellipsoids, following: np.ndarray, inverses: Interval
) -> tuple[np.ndarray, np.ndarray]:
    """Upper bounds of |F(c) - c'| and of |DF| over each ball, in the norms of the balls; see also `sharper_rates`."""
    enclosure = enclose_sets(f, sets)
    with np.errstate(all="ignore"):
        _, rates = image_radii(enclosure, sets.radii, following, inverses)
        offsets = vn.vector_norm_bound(ia.matvec(inverses, ia.sub(enclosure.value, point(following))))
    rates = np.where(np.asarray(enclosure.jumps) | np.asarray(enclosure.undefined), np.inf, rates)
    return offsets, rates


def sharper_rates(
    f: Callable, sets: Ellipsoids, inverses: Interval, rates: Float[np.ndarray, " K"], num_reweighted: int = 16
) -> tuple[Float[np.ndarray, " K"], Float[np.ndarray, "K m"]]:
    """Upper bounds of |DF| over each ball, where `rates` that come from bounds of its entries miss a contraction.

    And the multipliers they hold with, zeros where the rates are as they were. For few units intervals lose little, and
    where they lose more than `_HOPELESS` allows nothing else will help.
    """
    nothing = np.zeros((len(rates), 0))
    rows = np.flatnonzero((rates >= _PLAIN_ENOUGH) & (rates < _HOPELESS))
    if sets.centers.shape[1] <= _FEW_UNITS or not rows.size:
        return rates, nothing
    try:
        form = map_in_chunks(
            lambda batch: jax.device_get(gain_forms(f, *batch)),
            tuple(sets.take(rows)),
            bytes_per_item=8 * 400 * sets.centers.shape[1] ** 2,
            description="Enclosing",
            progress=False,
            least_size=_GAINS_CHUNK,
            most_size=_GAINS_CHUNK,
        )
    except NotImplementedError:  # an operation that has no gains: what intervals say stands
        return rates, nothing
    found, multipliers = gain_norms(form, inverses.map(lambda end: end[rows]), num_reweighted)
    better = found < rates[rows]
    out, used = rates.copy(), np.zeros((len(rates), multipliers.shape[1]))
    out[rows[better]], used[rows[better]] = found[better], multipliers[better]
    return out, used


def _assemble(cycles: list[np.ndarray], best: list[_Candidate], jacobians: list[np.ndarray]) -> TrappingBalls:
    lengths = [len(cycle) for cycle in cycles]
    proved = np.array([candidate.radius > 0 for candidate in best])
    most = max(candidate.multipliers.shape[1] for candidate in best)
    return TrappingBalls(
        centers=np.concatenate(cycles),
        factors=np.concatenate([candidate.factors for candidate in best]),
        radii=np.repeat([candidate.radius for candidate in best], lengths),
        owners=np.repeat(np.arange(len(cycles)), lengths),
        offsets=np.concatenate([candidate.offsets for candidate in best]),
        rates=np.concatenate([candidate.rates for candidate in best]),
        multipliers=np.concatenate([np.pad(c.multipliers, [(0, 0), (0, most - c.multipliers.shape[1])]) for c in best]),
        result=first_verdict((proved, BallVerdict.proved), otherwise=BallVerdict.not_contracting),
        reasons=tuple(candidate.words(_spectral_radius(chain)) for candidate, chain in zip(best, jacobians)),
    )


def _spectral_radius(jacobians: np.ndarray) -> float:
    """The modulus of the largest multiplier of a cycle, per step."""
    if not np.isfinite(jacobians).all():
        return float("nan")
    return float(np.max(np.abs(np.linalg.eigvals(orbit_product(jacobians))))) ** (1 / len(jacobians))
