"""Proofs that a map is chaotic: a horseshoe along an orbit that leaves a saddle and comes back to it."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Array
from tqdm.auto import tqdm

from rnndyn._validation import check_at_least, check_states
from rnndyn.dynamics.chaos._bases import Base, bases
from rnndyn.dynamics.chaos._graphs import Graph, chaos_proof, graph_of, with_cones
from rnndyn.dynamics.chaos._homoclinic import Homoclinic, find_homoclinics
from rnndyn.dynamics.chaos._loops import Loop, close, plans
from rnndyn.dynamics.chaos._saddles import find_saddles, spread
from rnndyn.dynamics.chaos.chaos_proof import ChaosProof, refused
from rnndyn.dynamics.chaos.verdicts import HorseshoeVerdict
from rnndyn.dynamics.numerics.drivers import let_in
from rnndyn.dynamics.proofs.krawczyk import interval_precision

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
) -> ChaosProof:
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


# --- helpers


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
        return refused(
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
                graph = None if loop is None else graph_of(f, base, [loop])
                if loop is not None and graph is not None:
                    loops, graph = _enlarged(f, base, orbits, loop, graph, limits)
                    return chaos_proof(saddle, loops, with_cones(f, base, graph))
    spent = f" The budget of {limits.budget:g} s was spent first." if limits.is_over() else ""
    if num_returns == 0:
        tried = ", ".join(f"period {s.period} with {s.num_unstable} unstable" for s in saddles[:_NUM_SADDLES])
        return refused(HorseshoeVerdict.no_return, size, f"saddles near the states: {tried}. Try more states.")
    if num_orbits == 0:
        return refused(
            HorseshoeVerdict.not_transversal, size, f"{num_returns} near returns, none led to one among the states."
        )
    if num_bases == 0:
        return refused(
            HorseshoeVerdict.not_closed,
            size,
            f"{num_orbits} homoclinic orbits, but no set at a saddle covers itself, or f has no enclosure there."
            f"{spent}",
        )
    return refused(
        HorseshoeVerdict.not_closed,
        size,
        f"{num_orbits} homoclinic orbits, {num_tried} loops tried; the best reached {best:.3g} of the 1 that is needed."
        f" Try more states, or a larger max_period.{spent}",
    )


def _enlarged(f: Callable, base: Base, orbits: list[Homoclinic], loop: Loop, graph: Graph, limits: _Limits):
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
        larger = None if another is None else graph_of(f, base, [*loops, another])
        if larger is not None and larger.entropy > graph.entropy:
            loops, graph = [*loops, another], larger
    return loops, graph


def _starts_at(plan: Any, loop: Loop) -> bool:
    return len(loop.sets) > 1 and np.allclose(loop.sets[1].center, plan.orbit.points[plan.first + 1], atol=1e-9)
