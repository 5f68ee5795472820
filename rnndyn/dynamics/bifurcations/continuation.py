"""Following fixed points and cycles of a map as a parameter changes."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Complex, Float, Int

from rnndyn._validation import check_state, check_states
from rnndyn.dynamics.bifurcations._curve import Curve, Node, stack_multipliers
from rnndyn.dynamics.bifurcations._events import find_events, first_jump
from rnndyn.dynamics.bifurcations._refinement import refine
from rnndyn.dynamics.bifurcations._segment_bounds import SHORTEST, bound_segments, unseen_intervals
from rnndyn.dynamics.bifurcations._setup import CurveOptions, check_span, follow_both_ways, make_curve, start_node
from rnndyn.dynamics.bifurcations.bifurcations import BRANCH_POINT, Bifurcation
from rnndyn.dynamics.bifurcations.verdicts import BranchVerdict
from rnndyn.dynamics.numerics.drivers import double_precision, let_in
from rnndyn.dynamics.numerics.periodic_orbits import smallest_period
from rnndyn.results import Judged, is_verdict, stack_verdicts


def continue_fixed_points(
    f: Callable[[Array, Array], Array],
    x0: ArrayLike,
    p0: ArrayLike,
    p_span: Sequence[float | int] | np.ndarray,
    *,
    box: tuple[ArrayLike, ArrayLike] | None = None,
    max_points: int = 2000,
    initial_step: float = 0.01,
    min_step: float = 1e-8,
    max_step: float = 0.05,
    state_scale: float | None = None,
    num_multipliers: int | None = None,
    linear_solver: str = "dense",
    bound: bool = False,
) -> "Branch":
    r"""Follow a fixed point $F(x, p) = x$ as the parameter changes, through folds, with the bifurcations on it.

    Pseudo-arclength continuation: from a point $\zeta = (x, p)$ of the branch (scaled to lengths of order one) with
    unit tangent $\tau$, the point $\zeta + s\tau$ is predicted and corrected by Newton's method in the plane orthogonal
    to $\tau$. The step s follows from how fast the corrector contracted, how far it went and how much the tangent
    turned; a step that exceeds its nominal values twice is rejected, which also keeps the curve from jumping to another
    branch.

    **Arguments:**

    - `f`: the map with its parameter, `(N,), () -> (N,)`. An `equinox.Module` is compiled once for all of one
        structure.
    - `x0`: near a fixed point at `p0`, shape `(N,)`; Newton's method goes the rest of the way.
    - `p0`: where to start, inside `p_span`.
    - `p_span`: the interval `(lowest, highest)` of the parameter. Both directions are followed.
    - `box`: a box `(lower, upper)` of states; the branch ends where it leaves it.
    - `max_points`: the most points in each direction.
    - `initial_step`, `min_step`, `max_step`: arc lengths, where the width of `p_span` is 1, and so is a
        root-mean-square change of the state by `state_scale`.
    - `state_scale`: a length typical of the states; by default the larger of 1, which suits tanh and gated units, and
        $|x_0|_\infty$.
    - `num_multipliers`: how many of the largest multipliers to compute, by Arnoldi's method; by default all, which is
        what most of the time goes into from about 100 units on. No bifurcation is lost, as more are computed where
        all of them lie outside the unit circle.
    - `linear_solver`: `"dense"`, or `"gmres"`, which takes steps without forming Jacobians, for states too long for
        them. Located bifurcations still form one.
    - `bound`: exclude, by interval arithmetic, that a multiplier leaves the unit circle and comes back between two
        points, however fast: steps are divided until no multiplier can reach the circle in between, and what remains is
        in `unseen`. For maps made of the operations that `docs/certificates.md` lists; takes ten to a hundred times as
        long. By default that is estimated from the derivative at 15 places between each two points.

    **Returns:** a `Branch`; its `bifurcations` are located to 1e-10 by Newton's method on their defining systems, each
    with its normal form. Segments in which two crossings might cancel, or in which the derivative strays so far from
    its values at the ends that a multiplier might reach the circle, are divided (see `_refinement.py`): what goes out
    and comes back within about a twentieth of a step, and leaves no trace at those places, is seen with `bound` only.

    **Raises:** `ValueError` for bad shapes, NaN, `p0` outside the interval, a map that changes its state's shape or
    dtype, or when Newton's method finds no fixed point near `x0`; with `bound`, `NotImplementedError` naming an
    operation of f without an interval rule.

    Reference: H. B. Keller (1977), *Numerical solution of bifurcation and nonlinear eigenvalue problems*; E. Allgower &
    K. Georg (2003), *Introduction to Numerical Continuation Methods*; R. Veltz (2020), *BifurcationKit.jl*.
    """
    check_state("x0", x0)
    points = np.asarray(x0, np.float64)[None]
    options = CurveOptions(
        box, max_points, initial_step, min_step, max_step, state_scale, num_multipliers, linear_solver, bound
    )
    return _continue(f, points, p0, p_span, options, "x0")


def continue_cycles(
    f: Callable[[Array, Array], Array],
    points: ArrayLike,
    p0: ArrayLike,
    p_span: Sequence[float | int] | np.ndarray,
    *,
    box: tuple[ArrayLike, ArrayLike] | None = None,
    max_points: int = 2000,
    initial_step: float = 0.01,
    min_step: float = 1e-8,
    max_step: float = 0.05,
    state_scale: float | None = None,
    num_multipliers: int | None = None,
    linear_solver: str = "dense",
    bound: bool = False,
) -> "Branch":
    r"""Follow a cycle as the parameter changes, through folds, and locate its bifurcations.

    $$F(x_i, p) = x_{i+1}, \qquad i = 0, \dots, P - 1, \qquad x_P = x_0$$

    is solved by pseudo-arclength continuation, as in `continue_fixed_points`.

    **Arguments:** as in `continue_fixed_points`, but

    - `points`: near the points of the cycle at `p0`, in order, shape `(P, N)`.

    **Returns:** a `Branch` with `points` of shape `(M, P, N)` and the multipliers of the cycle. Where the cycle meets
    one of smaller period, which flips there, the branch ends: beyond, it would only repeat the cycles it has passed.

    **Raises:** `ValueError` as there, and when the points repeat a cycle of smaller period.

    All points are unknowns (multiple shooting), so residuals are those of single steps. The multipliers come from the
    product of the P Jacobians, and those below its norm times 1e-16 are not resolved.

    Reference: E. Doedel, H. Keller & J. Kernevez (1991), *Numerical analysis and control of bifurcation problems*;
    Yu. Kuznetsov (2004), *Elements of Applied Bifurcation Theory*, chapter 10.
    """
    check_states("points", points)
    points = np.asarray(points, np.float64)
    options = CurveOptions(
        box, max_points, initial_step, min_step, max_step, state_scale, num_multipliers, linear_solver, bound
    )
    return _continue(f, points, p0, p_span, options, "points")


class Branch(Judged):
    """A curve of fixed points or cycles, ordered along its arc length; the parameter need not be monotonic.

    - `parameters`: `(M,)`.
    - `points`: fixed points `(M, N)`, or cycles `(M, P, N)`.
    - `multipliers`: by falling modulus, `(M, N)` complex; with `num_multipliers` fewer columns, and NaN where a row has
        fewer than others.
    - `residuals`: $|F(x_i) - x_{i+1}|_\\infty$, `(M,)`.
    - `tangents`: dx/ds of all points, then dp/ds, `(M, P N + 1)`, s the scaled arc length.
    - `bifurcations`: in the order of the branch; each knows the index of the point before it.
    - `start`: the index of the point at `p0`.
    - `unseen`: intervals of the parameter `(U, 2)` in which a multiplier may go through the unit circle and come back
        without being seen.
    - `is_bounded`: whether elsewhere that is excluded by intervals (`bound`), or estimated.
    - `result`: why it ends at its first and at its last point, a batch `(2,)` of `BranchVerdict`; `message` has it in
        words. Both are `closed` where the last point is the first again; of a loop that was born on another branch the
        last is.
    """

    parameters: Float[np.ndarray, " M"]
    points: Float[np.ndarray, "M *P N"]
    multipliers: Complex[np.ndarray, "M K"]
    residuals: Float[np.ndarray, " M"]
    tangents: Float[np.ndarray, "M Z"]
    bifurcations: tuple[Bifurcation, ...]
    start: int
    result: BranchVerdict
    unseen: Float[np.ndarray, "U 2"] = eqx.field(default_factory=lambda: np.zeros((0, 2)))
    is_bounded: bool = False

    def __len__(self) -> int:
        return len(self.parameters)

    @property
    def period(self) -> int:
        """The period of the cycles; 1 for fixed points."""
        return 1 if self.points.ndim == 2 else self.points.shape[1]

    @property
    def spectral_radii(self) -> Float[np.ndarray, " M"]:
        """The largest modulus of a multiplier of each point."""
        return np.abs(self.multipliers[:, 0])

    @property
    def is_stable(self) -> Bool[np.ndarray, " M"]:
        """Whether all multipliers of each point lie inside the unit circle."""
        return self.spectral_radii < 1

    @property
    def num_unstable(self) -> Int[np.ndarray, " M"]:
        """The number of multipliers outside the unit circle, for each point."""
        return np.sum(np.abs(self.multipliers) > 1, axis=1)

    @property
    def is_closed(self) -> bool:
        """Whether it is a closed curve: it came back to where it began, or was born."""
        return bool(np.any(is_verdict(self.result, BranchVerdict.closed)))

    @property
    def unseen_words(self) -> list[str]:
        """What `unseen` means, one sentence for each interval."""
        return [
            f"a multiplier may leave and come back unseen from {low:.8g} to {high:.8g}" for low, high in self.unseen
        ]

    def of_kind(self, kind: str) -> tuple[Bifurcation, ...]:
        """The bifurcations of one kind."""
        return tuple(event for event in self.bifurcations if event.kind == kind)

    def table(self) -> str:
        what = "fixed points" if self.period == 1 else f"cycles of period {self.period}"
        lines = [
            f"Branch of {what}: {len(self)} points of {self.points.shape[-1]} units, parameter "
            f"{self.parameters.min():.6g} to {self.parameters.max():.6g}",
            f"  ends: {self.message[0]}; {self.message[1]}",
            f"  largest residual {self.residuals.max():.2g}; stable at {int(self.is_stable.sum())} points",
        ]
        lines += ["  " + event.table() for event in self.bifurcations] or ["  no bifurcations"]
        if self.is_bounded:
            lines.append(
                "  multipliers between the points: bounded by intervals" + (", but" if len(self.unseen) else "")
            )
        lines += [f"  {words}" for words in self.unseen_words]
        return "\n".join(lines)


def _continue(
    f: Callable[[Array, Array], Array],
    points: np.ndarray,
    p0: ArrayLike,
    p_span: Sequence[float | int] | np.ndarray,
    options: CurveOptions,
    name: str,
) -> Branch:
    check_span("p0", p0, "p_span", p_span)
    with double_precision():
        check_states(name, points)
        f = let_in(f, points[0], np.asarray(p0, float))
        curve = make_curve(f, points, np.array([p_span], float), options)
        start = start_node(curve, points, np.array([p0], float), name)
        return assemble(curve, *follow_both_ways(curve, start, options, first_jump), bound=options.bound)


def assemble(curve: Curve, nodes: list[Node], start: int, ends: tuple[Any, Any], *, bound: bool) -> Branch:
    """Find the bifurcations on a curve of cycles and make the result."""
    given = nodes[start]
    open_pairs: list[tuple[Node, Node]] = []
    if bound:
        nodes, open_pairs = bound_segments(curve, nodes)
    nodes, touches, doubtful = refine(curve, nodes)
    events = find_events(curve, nodes, touches)
    at_start = bool(is_verdict(ends[0], BranchVerdict.born))
    shortest = SHORTEST if bound else np.inf
    at = [event.index for event in events]
    unseen = unseen_intervals(curve, nodes, at, open_pairs if bound else doubtful, at_start, shortest)
    start = next(k for k, node in enumerate(nodes) if node is given)
    first, last, ends = _where_period_divides(events, start, len(nodes), ends)
    nodes = nodes[first:last]
    events = [eqx.tree_at(lambda e: e.index, e, e.index - first) for e in events if first - 1 <= e.index <= last - 1]
    scales = np.asarray(curve.metric.scales)
    zetas = np.stack([node.zeta for node in nodes])
    period, size = curve.system.period, curve.system.num_units
    shape = (len(nodes), size) if period == 1 else (len(nodes), period, size)
    return Branch(
        parameters=zetas[:, -1] * scales[-1],
        points=(zetas[:, :-1] * scales[:-1]).reshape(shape),
        multipliers=stack_multipliers(nodes),
        residuals=np.array([node.residual for node in nodes]),
        tangents=np.stack([node.tangent for node in nodes]) * scales,
        bifurcations=tuple(events),
        start=start - first,
        result=stack_verdicts(ends),
        unseen=unseen,
        is_bounded=bound,
    )


def _where_period_divides(
    events: list[Bifurcation], start: int, num_nodes: int, ends: tuple[Any, Any]
) -> tuple[int, int, tuple[Any, Any]]:
    """The range of nodes around `start` on which the cycles keep their minimal period, and why the branch ends."""
    first, last = 0, num_nodes
    first_end, last_end = ends
    for event in events:
        spread = float(np.max(np.ptp(event.points, axis=0), initial=0.0)) + float(np.max(np.abs(event.points)))
        if event.kind == BRANCH_POINT and smallest_period(event.points, 1e-7 * spread) < len(event.points):
            if event.index < start:
                first, first_end = event.index + 1, BranchVerdict.period_divided
            else:
                last, last_end = event.index + 1, BranchVerdict.period_divided
                break
    return first, last, (first_end, last_end)
