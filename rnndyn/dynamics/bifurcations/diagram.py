"""Bifurcation diagrams: a branch, and the branches born on it, and those born on these."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Array, ArrayLike

from rnndyn._validation import check_at_least, check_state, check_states
from rnndyn.dynamics.bifurcations._curve import Curve, Node
from rnndyn.dynamics.bifurcations._events import first_jump
from rnndyn.dynamics.bifurcations._setup import CurveOptions, check_span, follow_both_ways, make_curve, start_node
from rnndyn.dynamics.bifurcations._switching import Traced, is_own, near_head, place_on, switch
from rnndyn.dynamics.bifurcations._tracks import search_at
from rnndyn.dynamics.bifurcations.bifurcations import (
    BORDER_COLLISION,
    BRANCH_POINT,
    FLIP,
    Bifurcation,
)
from rnndyn.dynamics.bifurcations.continuation import Branch, assemble
from rnndyn.dynamics.bifurcations.verdicts import BranchVerdict
from rnndyn.dynamics.numerics.drivers import double_precision, let_in
from rnndyn.dynamics.numerics.periodic_orbits import smallest_period
from rnndyn.results import Result, is_verdict


def bifurcation_diagram(
    f: Callable[[Array, Array], Array],
    x0: ArrayLike,
    p0: ArrayLike,
    p_span: Sequence[float | int] | np.ndarray,
    *,
    depth: int = 2,
    max_period: int = 64,
    max_branches: int = 64,
    box: tuple[ArrayLike, ArrayLike] | None = None,
    max_points: int = 2000,
    initial_step: float = 0.01,
    min_step: float = 1e-8,
    max_step: float = 0.05,
    state_scale: float | None = None,
    num_searches: int = 0,
    others: Sequence[tuple[float, ArrayLike | Sequence[Any]]] = (),
    bound: bool = False,
) -> "BifurcationDiagram":
    r"""Follow a fixed point or cycle, and what is born on it: the arms at branch points, doubled cycles at flips.

    At a branch point the tangent of the other branch solves the algebraic branching equation, and both of its
    directions are followed. At a flip with critical vectors $v_i$ along the cycle, the doubled cycle starts at
    $(x_i + \epsilon v_i,\ x_i - \epsilon v_i)$. A branch that has been met already, such as the other end of a loop, is
    not followed again.

    **Arguments:** as in `continue_fixed_points`, and

    - `x0`: near a fixed point `(N,)`, or near a cycle `(P, N)`.
    - `depth`: generations of branches; 1 is the branch through `x0` alone.
    - `max_period`: cycles of a longer period are not followed.
    - `max_branches`: the most branches; a diagram that is cut off there says so in `gaps`.
    - `num_searches`: at so many values of the parameter, spread evenly over `p_span`, all fixed points in `box` are
        searched for, and those that lie on no branch start branches of their own. So are branches found that hang
        together with no other (isolas), where they are wider than the distance between two values.
    - `others`: further places to start from, pairs `(p, x)` of a parameter and a point or cycle near there.

    **Returns:** a `BifurcationDiagram`.

    **Raises:** `ValueError` as `continue_fixed_points`; `num_searches` without a finite `box`; one of `others` outside
    of `p_span`.

    Invariant circles born at Neimark-Sacker points are not followed (see `find_invariant_circle`), nor are branches at
    points where several multipliers cross at once.

    Reference: H. B. Keller (1977), *Numerical solution of bifurcation and nonlinear eigenvalue problems*; R. Veltz
    (2020), *BifurcationKit.jl*.
    """
    if np.ndim(x0) == 2:
        check_states("x0", x0)
    else:
        check_state("x0", x0)
    points = np.atleast_2d(np.asarray(x0, np.float64))
    check_states("x0", points)
    check_span("p0", p0, "p_span", p_span)
    check_at_least("depth", depth, 1)
    check_at_least("max_branches", max_branches, 1)
    check_at_least("num_searches", num_searches, 0)
    for p, states in others:
        check_span("others", p, "p_span", p_span)
        check_states("others", np.atleast_2d(states), points.shape[1])
    if num_searches and (box is None or not all(np.isfinite(np.asarray(bound)).all() for bound in box)):
        raise ValueError("num_searches: it needs `box`, two finite bounds on the states to search in.")
    options = CurveOptions(box, max_points, initial_step, min_step, max_step, state_scale, bound=bound)
    with double_precision():
        f = let_in(f, points[0], np.asarray(p0, float))
        span = np.array([p_span], float)
        curve = make_curve(f, points, span, options)
        # One scale for all branches, or their nodes could not be compared.
        options = dataclasses.replace(options, state_scale=float(curve.metric.units[0]))
        start = start_node(curve, points, np.array([p0], float), "x0")
        nodes, first, reasons = follow_both_ways(curve, start, options, first_jump)
        branches = [Traced(curve, nodes, assemble(curve, nodes, first, reasons, bound=options.bound), 1, -1, -1)]
        gaps = _unfinished(branches[0].branch, 0)
        family = _Family(f, span, options, depth, max_period, max_branches, branches, gaps)
        family.grow()
        searched = _searched(f, span[0], box, points.shape[1], num_searches) if num_searches else []
        for p, states in [*((p, np.atleast_2d(np.asarray(x, np.float64))) for p, x in others), *searched]:
            family.root(p, states)
            family.grow()
    return BifurcationDiagram(
        tuple(b.branch for b in branches),
        tuple(b.level for b in branches),
        tuple(b.parent for b in branches),
        tuple(b.event for b in branches),
        tuple(gaps),
    )


_NUM_STARTS = 128
"""Random states of each search."""


class BifurcationDiagram(Result):
    """The branches that hang together at bifurcations, and those found besides.

    - `branches`: the first is the one through the given point. The first point of every other is the bifurcation that
        it was born at.
    - `levels`: the generation of each, from 1.
    - `parents`: for each, the number of the branch that it was born on; -1 for the first, and for those that start
        from `others` or from a search.
    - `born_at`: for each, which of its parent's `bifurcations` that was; -1 where there is none.
    - `gaps`: what was left out, and why: branches beyond `max_branches`, bifurcations at which several multipliers
        cross at once or that were not converged, arms that were not found, branches that ended before the bounds did,
        steps in which a multiplier may leave the circle and come back (estimated, or with `bound` excluded elsewhere).
        Not counted is what was not asked for: more than `depth` generations, longer periods than `max_period`,
        branches that hang together with no other (`num_searches`, `others`).
    """

    branches: tuple[Branch, ...]
    levels: tuple[int, ...]
    parents: tuple[int, ...]
    born_at: tuple[int, ...]
    gaps: tuple[str, ...]

    @property
    def is_complete(self) -> bool:
        """Whether nothing is known to have been left out (see `gaps`)."""
        return not self.gaps

    def __len__(self) -> int:
        return len(self.branches)

    @property
    def bifurcations(self) -> tuple[Bifurcation, ...]:
        """Those of all branches, in the order of the branches."""
        return tuple(event for branch in self.branches for event in branch.bifurcations)

    def table(self) -> str:
        lines = [f"Bifurcation diagram of {len(self)} branches" + ("" if self.is_complete else " (cut off)")]
        lines += [f"  left out: {gap}" for gap in self.gaps]
        for k, branch in enumerate(self.branches):
            origin = ""
            if self.parents[k] >= 0:
                event = self.branches[self.parents[k]].bifurcations[self.born_at[k]]
                origin = f", born at the {event.kind} at {event.parameter:.8g} of branch {self.parents[k]}"
            lines.append(f"{k}: level {self.levels[k]}{origin}")
            lines += ["  " + line for line in branch.table().splitlines()]
        return "\n".join(lines)


class _Family:
    """The branches traced so far, and what was left out; it grows by what is born on them, and by further roots."""

    def __init__(
        self,
        f: Callable,
        span: np.ndarray,
        options: CurveOptions,
        depth: int,
        max_period: int,
        max_branches: int,
        branches: list[Traced],
        gaps: list[str],
    ) -> None:
        self.f, self.span, self.options = f, span, options
        self.depth, self.max_period, self.max_branches = depth, max_period, max_branches
        self.branches, self.gaps = branches, gaps
        self._next = 0

    def root(self, p: float, states: np.ndarray) -> None:
        """Follow the branch through a fixed point or cycle, unless it is known."""
        curve = make_curve(self.f, states, self.span, self.options)
        start = start_node(curve, states, np.array([p], float), "others")
        if any(place_on(known, start) is not None for known in self.branches):
            return
        if len(self.branches) >= self.max_branches:
            self.gaps.append(f"the point at {p:.8g} on no branch: max_branches reached")
            return
        nodes, first, reasons = follow_both_ways(curve, start, self.options, first_jump)
        branch = assemble(curve, nodes, first, reasons, bound=self.options.bound)
        self.gaps += _unfinished(branch, len(self.branches))
        self.branches.append(Traced(curve, nodes, branch, 1, -1, -1))

    def grow(self) -> None:
        """Follow what is born on branches that have not been looked at, and on these."""
        while self._next < len(self.branches):
            parent = self.branches[self._next]
            for number, event in enumerate(parent.branch.bifurcations):
                if parent.level >= self.depth:
                    break
                self._follow_born(parent, number, event)
            self._next += 1

    def _follow_born(self, parent: Traced, number: int, event: Bifurcation) -> None:
        options, branches = self.options, self.branches
        where = f"the {event.kind} at {event.parameter:.8g} of branch {self._next}"
        is_switch = event.kind in (FLIP, BRANCH_POINT) and not (event.converged and event.multiplicity == 1)
        # A border that is passed with as many multipliers on either side of 1 and -1 bears no branch.
        if is_switch or (event.kind == BORDER_COLLISION and event.multiplicity):
            self.gaps.append(f"{where}: what is born there was not followed")
        if not _can_switch(event, self.max_period):
            return
        period = event.period * (2 if event.kind == FLIP else 1)
        born = np.tile(event.points, (period // event.period, 1))
        doubled = make_curve(self.f, born, self.span, options)
        starts = switch(parent, event, doubled, options.initial_step, options.min_step)
        if len(starts) < (1 if event.kind == FLIP else 2):
            self.gaps.append(f"{where}: a branch born there was not found")
        for node, head in starts:
            if is_own(parent, event, node):
                self.gaps.append(f"{where}: the branch that crosses there was not told from this one")
                continue
            if any(place_on(known, node) is not None for known in branches):
                continue
            if len(branches) >= self.max_branches:
                self.gaps.append(f"{where}: max_branches reached")
                break
            # What is born may be as small as the first step had to be.
            first_step = min(options.initial_step, float(np.linalg.norm(node.zeta - head.zeta)) / 4)
            nodes, reason = doubled.follow(node, first_step, options.max_points, first_jump)
            nodes = [*near_head(doubled, head, node), *nodes]
            branch = _with_head(
                assemble(doubled, nodes, 0, (BranchVerdict.born, reason), bound=options.bound), head, doubled
            )
            self.gaps += _unfinished(branch, len(branches))
            branches.append(Traced(doubled, nodes, branch, parent.level + 1, self._next, number))


def _searched(f: Callable, span: np.ndarray, box: Any, size: int, num: int) -> list[tuple[float, np.ndarray]]:
    """Fixed points in the box at several values inside of the span, from random states."""
    lower, upper = (np.broadcast_to(np.asarray(bound, float), (size,)) for bound in box)
    starts = np.random.default_rng(0).uniform(lower, upper, (_NUM_STARTS, size))
    found = []
    for p in np.linspace(span[0], span[1], num + 2)[1:-1]:
        for point in search_at(_Held(f, np.asarray(p)), starts, 1):
            # At a fold or branch point there is no one branch to start on.
            is_singular = np.min(np.abs(point.multipliers - 1)) < 1e-6
            if np.all((point.points >= lower) & (point.points <= upper)) and not is_singular:
                found.append((float(p), point.points))
    return found


class _Held(eqx.Module):
    """F(., p)."""

    f: Callable
    p: np.ndarray

    def __call__(self, x: Array) -> Array:
        return self.f(x, self.p)


def _unfinished(branch: Branch, number: int) -> list[str]:
    """Whether a branch ended before its bounds did, and where more may bifurcate than was seen."""
    early = is_verdict(branch.result, BranchVerdict.out_of_points, BranchVerdict.step_too_small)
    ended = [f"branch {number} ended: {words}" for words in branch.message[early]]
    return [*ended, *(f"branch {number}: {words}" for words in branch.unseen_words)]


def _can_switch(event: Bifurcation, max_period: int) -> bool:
    """Whether new branches start at `event` and are to be followed."""
    if not event.converged or event.multiplicity != 1:
        return False
    if event.kind == FLIP:
        return 2 * event.period <= max_period
    # Where a doubled cycle meets the one that it doubles, the crossing branch is that one.
    spread = float(np.max(np.abs(event.points)) + np.max(np.ptp(event.points, axis=0)))
    return event.kind == BRANCH_POINT and smallest_period(event.points, 1e-7 * spread) == len(event.points)


def _with_head(branch: Branch, head: Node, curve: Curve) -> Branch:
    """The branch with the bifurcation that it was born at as its first point."""
    z = head.zeta * curve.metric.scales
    front = {
        "parameters": z[-1:],
        "points": z[:-1].reshape(1, *branch.points.shape[1:]),
        "multipliers": head.multipliers[None],
        "residuals": np.array([head.residual]),
        "tangents": (head.tangent * curve.metric.scales)[None],
    }
    fields: dict[str, Any] = {name: np.concatenate([row, getattr(branch, name)]) for name, row in front.items()}
    events = tuple(eqx.tree_at(lambda e: e.index, event, event.index + 1) for event in branch.bifurcations)
    return Branch(
        **fields,
        bifurcations=events,
        start=0,
        result=branch.result,
        unseen=branch.unseen,
        is_bounded=branch.is_bounded,
    )
