"""Proofs that a map is chaotic: a horseshoe along an orbit that leaves a saddle and comes back to it."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Int
from tqdm.auto import tqdm

from rnndyn._validation import check_at_least, check_states
from rnndyn._verdicts import verdict_words
from rnndyn.dynamics.chaos._homoclinic import Homoclinic, find_homoclinics
from rnndyn.dynamics.chaos._loops import Base, Loop, bases, close, plans
from rnndyn.dynamics.chaos._saddles import Saddle, find_saddles, spread
from rnndyn.dynamics.chaos.covering import Covering, HSet, covering, images, is_disjoint
from rnndyn.dynamics.chaos.symbolic import entropy_bound, least_cycle_mean, tells_paths_apart
from rnndyn.dynamics.chaos.verdicts import HorseshoeVerdict
from rnndyn.dynamics.numerics.drivers import let_in
from rnndyn.dynamics.proofs.krawczyk import interval_precision
from rnndyn.results import Judged, is_verdict

# Claims are this much weaker than what was computed: a checker with another order of summation agrees with them, and
# one that is off by more than this is refused.
CLAIM_SLACK = 4e-10
_NUM_ROUNDS = 200
_NUM_SADDLES = 3
_NUM_PLANS = 3
_NUM_ORBITS = 30


def prove_chaos(
    f: Callable,
    states: Array | np.ndarray,
    *,
    max_period: int = 2,
    max_unstable: int = 2,
    max_loops: int = 3,
    budget: float = 300.0,
    progress: bool = True,
) -> "ChaosProof":
    r"""Prove that a map has a horseshoe near given states, or say why this cannot be proved.

    An h-set is N = c + A z with |p| <= 1, |q| <= 1 for z = (p, q), p of dimension u. It covers another, N ⇒ N', when f
    lays it across it: in the coordinates of N' the image is within |q'| < 1, and that of |p| = 1 lies outside of
    |p'| <= 1, with a degree that is not zero. Along every path of a graph of covering relations there is then an orbit
    of f, and different paths visit disjoint sets: so f has at least the topological entropy of the graph,

    $$h(f) \ge \log \rho(\text{adjacency}), \qquad \text{e.g. } 1 = x^{-1} + x^{-n},\ h \ge \log x,$$

    for a set at a saddle that covers itself and the first of n sets along a homoclinic orbit, whose last covers it.

    **Arguments:**

    - `f`: the map (N,) -> (N,), made of the operations that `docs/certificates.md` lists.
    - `states`: states (T, N) of a long trajectory, transients removed, that tell where to look.
    - `max_period`: of the saddle cycles that are tried; 1 is a fixed point.
    - `max_unstable`: of their numbers u of unstable directions.
    - `max_loops`: along how many homoclinic orbits loops are laid; each raises the bound.
    - `budget`: seconds after which nothing more is tried. What was proved by then is returned.
    - `progress`: whether a progress bar may appear.

    **Returns:** a `ChaosProof`, with `proved`, `entropy_bound`, `exponent_bound` and the sets, which
    `check_chaos` verifies independently. Where it is not proved, `reason` says how far it came.

    **Raises:** `ValueError` for states or options that make no sense; `NotImplementedError` naming an operation of f
    without an interval rule.

    Everything that is claimed is evaluated in outward-rounded interval arithmetic; how the sets are found does not
    matter for it. The search: saddles near the states, pieces of the trajectory that nearly return to one, Newton's
    method for the homoclinic orbit, sets along it sized by a forward sweep.

    **A horseshoe is not an attractor.** Positive entropy says that there are infinitely many unstable cycles and an
    invariant set on which f is chaotic, and not that a trajectory stays near it: a map with transient chaos and a
    stable cycle has one too, and it is found if `states` hold the transient. `entropy_bound` is a bound of the map's
    topological entropy, which is at least the entropy of an attractor and at most the sum of its positive exponents
    only where nothing outside of it is chaotic.

    Zgliczynski & Gidea (2004), *Covering relations for multidimensional dynamical systems*; Yang (2013), *Horseshoe
    chaos in a class of simple Hopfield neural networks*; Galias & Zgliczynski (2001), *Abundance of homoclinic and
    heteroclinic orbits and rigorous bounds for the topological entropy for the Henon map*.
    """
    check_states("states", states)
    for name, value in (("max_period", max_period), ("max_unstable", max_unstable), ("max_loops", max_loops)):
        check_at_least(name, value, 1)
    if not budget > 0:
        raise ValueError(f"budget: expected a number of seconds above 0, got {budget}.")
    if len(states) < 10:
        raise ValueError(f"states: expected a trajectory of at least 10 states, got {len(states)}.")
    with interval_precision():
        trajectory = np.asarray(states, dtype=np.float64)
        limits = _Limits(max_period, max_unstable, max_loops, budget, time.monotonic() + budget)
        with tqdm(desc="Proving", delay=2.0, leave=False, disable=None if progress else True, unit="loop") as bar:
            return _prove(let_in(f, trajectory[0]), trajectory, limits, bar)


class ChaosProof(Judged):
    """What was proved of the chaos of a map.

    **Fields:**

    - `entropy_bound`: a lower bound of the topological entropy (nats a step); 0 where nothing is proved.
    - `exponent_bound`: a lower bound of the largest Lyapunov exponent of every orbit in the horseshoe, from cones that
      every step maps into one another; 0 where the cones do not show it.
    - `cones` (M,): the slopes k of the cones |q| <= k |p| of each set; NaN where there are none.
    - `centers` (M, N), `axes` (M, N, N): the h-sets c + A z. `num_unstable`: u.
    - `edges` (E, 2): the covering relations, from set to set; `expansions`, `contractions` (E,): claimed bounds of
      |p'| on |p| = 1 from below, of |q'| from above; `growths` (E,): of |p'| / |p| on the cones, from below.
    - `num_pieces` (M,): into how many pieces each set was cut to show them.
    - `saddle`: the points (p, N) of the saddle, first sets of all; `loop_lengths`: steps from the saddle and back.
    - `result`, a `HorseshoeVerdict`, and `reason`: what stood in the way, with the numbers of the case.
    """

    entropy_bound: float
    exponent_bound: float
    cones: Float[np.ndarray, " M"]
    num_unstable: int
    saddle: Float[np.ndarray, "p N"]
    loop_lengths: Int[np.ndarray, " L"]
    centers: Float[np.ndarray, "M N"]
    axes: Float[np.ndarray, "M N N"]
    num_pieces: Int[np.ndarray, " M"]
    edges: Int[np.ndarray, "E 2"]
    expansions: Float[np.ndarray, " E"]
    contractions: Float[np.ndarray, " E"]
    growths: Float[np.ndarray, " E"]
    result: HorseshoeVerdict
    reason: str

    @property
    def proved(self) -> bool:
        """Whether there is a horseshoe."""
        return bool(is_verdict(self.result, HorseshoeVerdict.horseshoe))

    def table(self) -> str:
        if not self.proved:
            return f"ChaosProof: {self.reason}"
        exponent = f">= {self.exponent_bound:.4f}" if self.exponent_bound > 0 else "open"
        return (
            "ChaosProof: a horseshoe exists\n"
            f"  topological entropy   >= {self.entropy_bound:.4f} nats a step\n"
            f"  largest exponent on it   {exponent}\n"
            f"  saddle                   period {len(self.saddle)}, {self.num_unstable} unstable\n"
            f"  loops                    {', '.join(map(str, self.loop_lengths))} steps, "
            f"{len(self.centers)} sets, {len(self.edges)} covering relations"
        )


# --- helpers


@dataclasses.dataclass(frozen=True)
class _Graph:
    """H-sets and the covering relations between them."""

    sets: list[HSet]
    num_pieces: list[int]
    edges: list[tuple[int, int]]
    bounds: list[Covering]
    entropy: float


@dataclasses.dataclass(frozen=True)
class _Limits:
    """What the search may try, and until when."""

    max_period: int
    max_unstable: int
    max_loops: int
    budget: float
    deadline: float

    def is_over(self) -> bool:
        return time.monotonic() > self.deadline


def _prove(f: Callable, states: np.ndarray, limits: _Limits, bar: tqdm) -> ChaosProof:
    size, max_period = states.shape[1], limits.max_period
    scale = spread(states)
    saddles = find_saddles(f, states, max_period, limits.max_unstable) if scale > 0 else []
    if not saddles:
        return _refused(
            HorseshoeVerdict.no_saddle, size, f"none of period up to {max_period} near {len(states)} states."
        )
    num_returns = num_orbits = num_bases = num_tried = 0
    best = 0.0
    for saddle in saddles[:_NUM_SADDLES]:
        if limits.is_over():
            break
        orbits, returns = find_homoclinics(f, saddle, states, scale, _NUM_ORBITS)
        num_returns, num_orbits = num_returns + returns, num_orbits + len(orbits)
        if not orbits:
            continue
        for base in bases(f, saddle, scale, limits.is_over):
            num_bases += 1
            for plan in plans(base, orbits)[:_NUM_PLANS]:
                if limits.is_over():
                    break
                bar.update()
                loop, reached = close(f, base, plan)
                num_tried, best = num_tried + 1, max(best, reached)
                graph = None if loop is None else _graph(f, base, [loop])
                if loop is not None and graph is not None:
                    return _proof(saddle, *_enlarged(f, base, orbits, loop, graph, limits))
    spent = f" The budget of {limits.budget:g} s was spent first." if limits.is_over() else ""
    if num_returns == 0:
        tried = ", ".join(f"period {s.period} with {s.num_unstable} unstable" for s in saddles[:_NUM_SADDLES])
        return _refused(HorseshoeVerdict.no_return, size, f"saddles near the states: {tried}. Try more states.")
    if num_orbits == 0:
        return _refused(HorseshoeVerdict.not_transversal, size, f"{num_returns} near returns, none led to one.")
    if num_bases == 0:
        return _refused(
            HorseshoeVerdict.not_closed,
            size,
            f"{num_orbits} homoclinic orbits, but no set at a saddle covers itself, or f has no enclosure there."
            f"{spent}",
        )
    return _refused(
        HorseshoeVerdict.not_closed,
        size,
        f"{num_orbits} homoclinic orbits, {num_tried} loops tried; the best reached {best:.3g} of the 1 that is needed."
        f" Try more states, or a larger max_period.{spent}",
    )


def _enlarged(f: Callable, base: Base, orbits: list[Homoclinic], loop: Loop, graph: _Graph, limits: _Limits):
    """More loops from the same sets at the saddle, kept while they raise the entropy."""
    loops = [loop]
    tried = 0
    for plan in plans(base, orbits):
        if len(loops) == limits.max_loops or tried == 2 * limits.max_loops or limits.is_over():
            break
        if any(plan.length == one.length and _starts_at(plan, one) for one in loops):
            continue
        tried += 1
        another, _ = close(f, base, plan)
        larger = None if another is None else _graph(f, base, [*loops, another])
        if larger is not None and larger.entropy > graph.entropy:
            loops, graph = [*loops, another], larger
    return loops, graph


def _starts_at(plan: Any, loop: Loop) -> bool:
    return len(loop.sets) > 1 and np.allclose(loop.sets[1].center, plan.orbit.points[plan.first + 1], atol=1e-9)


def _graph(f: Callable, base: Base, loops: list[Loop]) -> _Graph | None:
    """All relations of the base and its loops, verified; `None` where one fails or paths are not told apart."""
    period, u = base.saddle.period, base.saddle.num_unstable
    sets, pieces = list(base.sets), [base.num_pieces] * period
    edges = [(k, (k + 1) % period) for k in range(period)]
    starts = []
    for loop in loops:
        first = len(sets)
        starts.append((first, loop.phase))
        sets += loop.sets
        pieces += loop.num_pieces
        edges += [(first + k, first + k + 1) for k in range(loop.length - 1)]
        edges.append((len(sets) - 1, loop.end_phase))
    # A slab lies in a set of the base: what covers that covers the slab.
    edges += [(i, first) for first, phase in starts for i, j in list(edges) if j == phase and j < period]
    bounds: list[Covering] = []
    over = {i: images(f, sets[i], u, pieces[i]) for i in sorted({i for i, _ in edges})}
    for i, j in edges:
        bounds.append(covering(over[i], sets[j], u))
        slack = claim_slack(sets[j])
        if not bounds[-1].expansion - slack > 1 or not bounds[-1].contraction + slack < 1:
            return None
    pairs = np.asarray(edges)
    if not tells_paths_apart(pairs, overlaps(sets, u)):
        return None
    return _Graph(sets, pieces, edges, bounds, entropy_bound(pairs, len(sets)))


def claim_slack(target: HSet) -> float:
    """How much a claim gives away: more where the set is so small that rounding errors of f show in its coordinates."""
    largest = np.abs(np.linalg.inv(target.axes)).sum(axis=1).max()
    return float(CLAIM_SLACK + 4e-14 * largest * max(1.0, np.abs(target.center).max()))


def overlaps(sets: list[HSet], num_unstable: int) -> np.ndarray:
    """Which pairs of sets are not shown to be disjoint by a coordinate or by an unstable direction of either."""
    rows = [np.linalg.inv(one.axes)[:num_unstable] for one in sets]
    identity = np.eye(len(sets[0].center))
    found = np.ones((len(sets), len(sets)), bool)
    for i in range(len(sets)):
        for j in range(i):
            functionals = np.concatenate([identity, rows[i], rows[j], (sets[i].center - sets[j].center)[None]])
            found[i, j] = found[j, i] = not is_disjoint(sets[i], sets[j], functionals)
    return found


def cone_growths(edges: np.ndarray, bounds: list[Covering], slopes: np.ndarray) -> np.ndarray:
    """Lower bounds of |p'| / |p| on the cones |q| <= k_i |p| for each relation from set i.

    -inf where the cone at i is not mapped into that at j.
    """
    found = []
    for (i, j), one in zip(edges, bounds):
        growth = one.growth - one.mixing * slopes[i]
        keeps = one.shear + one.squeeze * slopes[i] <= slopes[j] * growth * (1 - 1e-12)
        found.append(growth - 1e-12 * (one.growth + one.mixing * slopes[i]) if keeps and growth > 0 else -np.inf)
    return np.asarray(found)


def _cones(edges: np.ndarray, bounds: list[Covering], count: int) -> np.ndarray:
    """Slopes of cones, the narrowest that every relation maps into one another; NaN where there are none."""
    slopes = np.full(count, 1e-6)
    for _ in range(_NUM_ROUNDS):
        following = np.full(count, 1e-6)
        for (i, j), one in zip(edges, bounds):
            room = one.growth - one.mixing * slopes[i]
            if not room > 0:
                return np.full(count, np.nan)
            following[j] = max(following[j], (one.shear + one.squeeze * slopes[i]) / room * (1 + 1e-6))
        if np.all(following <= slopes):
            return slopes
        # Above the fixed point that the iteration tends to from below.
        slopes = np.maximum(following * (1 + 1e-6), slopes)
    return np.full(count, np.nan)


def _proof(saddle: Saddle, loops: list[Loop], graph: _Graph) -> ChaosProof:
    edges, count = np.asarray(graph.edges), len(graph.sets)
    exponent, growths = 0.0, np.zeros(len(edges))
    slacks = np.asarray([claim_slack(graph.sets[j]) for _, j in graph.edges])
    slopes = _cones(edges, graph.bounds, count)
    if np.isfinite(slopes).all():
        growths = cone_growths(edges, graph.bounds, slopes) - CLAIM_SLACK
        if np.all(growths > 0):
            exponent = max(0.0, least_cycle_mean(edges, list(np.log(growths)), count))
    return ChaosProof(
        entropy_bound=graph.entropy,
        exponent_bound=exponent,
        cones=slopes,
        num_unstable=saddle.num_unstable,
        saddle=saddle.points,
        loop_lengths=np.asarray([loop.length for loop in loops]),
        centers=np.stack([one.center for one in graph.sets]),
        axes=np.stack([one.axes for one in graph.sets]),
        num_pieces=np.asarray(graph.num_pieces),
        edges=edges,
        expansions=np.asarray([one.expansion for one in graph.bounds]) - slacks,
        contractions=np.asarray([one.contraction for one in graph.bounds]) + slacks,
        growths=growths,
        result=HorseshoeVerdict.horseshoe,
        reason="",
    )


def _refused(verdict: Any, size: int, numbers: str) -> ChaosProof:
    none, zero = np.zeros((0, size)), np.zeros(0)
    return ChaosProof(
        entropy_bound=0.0,
        exponent_bound=0.0,
        cones=zero,
        num_unstable=0,
        saddle=none,
        loop_lengths=np.zeros(0, int),
        centers=none,
        axes=np.zeros((0, size, size)),
        num_pieces=np.zeros(0, int),
        edges=np.zeros((0, 2), int),
        expansions=zero,
        contractions=zero,
        growths=zero,
        result=verdict,
        reason=f"{verdict_words(verdict)}: {numbers}",
    )
