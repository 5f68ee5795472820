"""Proofs of where the unstable branches of saddles lead: the wiring diagram of a memory network."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, Int

from rnndyn._validation import check_at_least
from rnndyn.dynamics.destinations import _journeys as journeys
from rnndyn.dynamics.destinations._sets import Balls, Ellipsoids
from rnndyn.dynamics.destinations._unstable_directions import (
    enclose_manifold,
    pieces_of_branch,
    unstable_direction,
)
from rnndyn.dynamics.destinations.trapping_balls import (
    Points,
    TrappingBalls,
    as_cycles,
    check_kept,
    trapping_balls_of,
)
from rnndyn.dynamics.destinations.verdicts import DestinationVerdict
from rnndyn.dynamics.numerics.drivers import let_in
from rnndyn.dynamics.proofs.krawczyk import interval_precision
from rnndyn.results import Judged, first_verdict, is_verdict

_NUM_FIRST_PIECES = 4


def certify_connections(
    f: Callable[[Array], Array],
    saddles: Points,
    points: Points | TrappingBalls,
    *,
    max_steps: int = 1000,
    max_pieces: int = 2048,
    progress: bool = True,
) -> "CertifiedConnections":
    r"""Prove in which memory each of the two unstable branches of every saddle ends: a network's wiring diagram.

    **Arguments:**

    - `f`: the map, `(N,) -> (N,)`, made of the operations that `docs/certificates.md` lists.
    - `saddles`: fixed points (K, N) or cycles (K, p, N) with one unstable direction, or a list of such arrays.
    - `points`: the memories, as for `certify_basins`.
    - `max_steps`: iterations after which a piece of a branch is given up.
    - `max_pieces`: into how many pieces a branch may be cut.
    - `progress`: whether a progress bar may appear.

    **Returns:** `CertifiedConnections`; `labels` (K, 2) has the memories at the two ends, -1 where nothing was proved.

    **Raises:** as `certify_basins`, and `ValueError` for a saddle that does not have exactly one unstable direction.

    Near the saddle the unstable manifold is a curve over the unstable direction, inside of a narrow cone: proved from
    covering relations and cone conditions on a small set around it, which also prove that the saddle exists. Every
    orbit of a branch has a point in the stretch of the curve between two distances from the saddle, of which the
    farther is the nearer times the largest growth in one step (two steps, where the multiplier is negative). That
    stretch is cut into pieces, each followed as an ellipsoid until it lies in a trapping ball; a piece that grows too
    long is cut again. For a cycle the branches at its first point stand for all: the others are their images.

    P. Zgliczyński (2009), *Covering relations, cone conditions and the stable manifold theorem*.
    """
    check_at_least("max_steps", max_steps, 0)
    check_at_least("max_pieces", max_pieces, 1)
    cycles = as_cycles("saddles", saddles)
    size = cycles[0].shape[1]
    with interval_precision():
        program = let_in(f, cycles[0][0])
        check_kept("saddles", program, cycles)
        returns = {p: program if p == 1 else let_in(_Iterate(program, p), cycles[0][0]) for p in map(len, cycles)}
        frames = [unstable_direction(returns[len(c)], c[0], f"row {k}") for k, c in enumerate(cycles)]
    balls = trapping_balls_of(f, points)
    if balls.centers.shape[1] != size:
        raise ValueError(f"saddles: expected states of {balls.centers.shape[1]} entries, those of points, got {size}.")
    with interval_precision():
        targets, rows = balls.targets()
        scale = 0.1 * float(np.max(np.abs(balls.centers - balls.centers.mean(axis=0)), initial=0.0) or 1.0)
        manifolds = [enclose_manifold(returns[len(c)], c[0], frame, scale) for c, (frame, _) in zip(cycles, frames)]
        found = _Branches(len(cycles))
        for period, return_map in returns.items():
            which = [k for k, c in enumerate(cycles) if len(c) == period and manifolds[k] is not None]
            if which and rows.size:
                limits = max_steps, max_pieces
                _follow(return_map, manifolds, which, found, targets, balls.owners[rows], limits, progress)
    missing = np.array([manifold is None for manifold in manifolds])[:, None]
    result = first_verdict(
        (found.labels >= 0, DestinationVerdict.proved),
        (missing & np.ones((1, 2), bool), DestinationVerdict.no_branch),
        (found.ends == journeys.BLURRED, DestinationVerdict.blurred),
        (found.ends == journeys.NOT_FINITE, DestinationVerdict.not_finite),
        otherwise=DestinationVerdict.not_arrived,
    )
    return CertifiedConnections(
        saddles=np.stack([cycle[0] for cycle in cycles]),
        periods=np.array([len(cycle) for cycle in cycles]),
        directions=np.stack([frame[:, 0] for frame, _ in frames]),
        multipliers=np.array([multiplier for _, multiplier in frames]),
        inner=np.array([0.0 if m is None else m.inner for m in manifolds]),
        outer=np.array([0.0 if m is None else m.outer for m in manifolds]),
        labels=found.labels,
        steps=found.steps,
        pieces=found.pieces,
        balls=balls,
        result=result,
    )


class CertifiedConnections(Judged):
    """Where the unstable branches of K saddles are proved to end; branch 0 leaves along `directions`, 1 against it.

    - `saddles`: the saddles, of a cycle the first point, (K, N); `periods`: (K,).
    - `directions`: the unstable directions, (K, N); `multipliers`: of the whole cycle, (K,).
    - `inner`, `outer`: the stretch of the unstable manifold that was followed, as distances along the direction, (K,).
    - `labels`: the row of `points` where each branch ends, (K, 2); -1 where nothing was proved.
    - `steps`: the largest number of iterations of any piece; `pieces`: into how many each branch was cut, (K, 2).
    - `balls`: the `TrappingBalls` of the memories.
    - `result`: a batch (K, 2) of `DestinationVerdict`.
    """

    saddles: Float[np.ndarray, "K N"]
    periods: Int[np.ndarray, " K"]
    directions: Float[np.ndarray, "K N"]
    multipliers: Float[np.ndarray, " K"]
    inner: Float[np.ndarray, " K"]
    outer: Float[np.ndarray, " K"]
    labels: Int[np.ndarray, "K 2"]
    steps: Int[np.ndarray, "K 2"]
    pieces: Int[np.ndarray, "K 2"]
    balls: TrappingBalls
    result: DestinationVerdict

    @property
    def proved(self) -> Any:
        """Which branches are proved, (K, 2)."""
        return is_verdict(self.result, DestinationVerdict.proved)

    @property
    def edges(self) -> Int[np.ndarray, "E 2"]:
        """The graph: a pair of memories for every saddle whose two branches are proved, the lower row first."""
        both = self.proved.all(axis=1)
        return np.sort(self.labels[both], axis=1)

    def __len__(self) -> int:
        return len(self.saddles)

    def table(self) -> str:
        num = int(self.proved.sum())
        lines = [f"CertifiedConnections: {num} of {self.proved.size} branches of {len(self)} saddles proved"]
        lines.append("  saddle  multiplier  memories    steps  pieces  not proved")
        words = self.message
        for k in range(min(len(self), 30)):
            ends = " - ".join("?" if label < 0 else str(label) for label in self.labels[k])
            missing = "; ".join(sorted({words[k, i] for i in range(2) if not self.proved[k, i]}))
            numbers = f"{self.steps[k].max():5d}  {self.pieces[k].sum():6d}"
            lines.append(f"  {k:6d}  {self.multipliers[k]:10.4f}  {ends:<10}  {numbers}  {missing}".rstrip())
        if len(self) > 30:
            lines.append(f"  ... and {len(self) - 30} more")
        return "\n".join(lines)


# --- helpers


class _Iterate(eqx.Module):
    """The map applied p times."""

    f: Callable
    times: int = eqx.field(static=True)

    def __call__(self, x: Array) -> Array:
        for _ in range(self.times):
            x = self.f(x)
        return x


class _Branches:
    """What is known of the branches of K saddles, (K, 2) each."""

    def __init__(self, num: int) -> None:
        self.labels, self.steps, self.pieces = (np.full((num, 2), fill) for fill in (-1, 0, 0))
        self.ends = np.full((num, 2), journeys.TRAVELLING)


def _follow(
    f: Callable,
    manifolds: list[Any],
    which: list[int],
    found: _Branches,
    targets: Balls,
    owners: np.ndarray,
    limits: tuple[int, int],
    progress: bool,
) -> None:
    """Follow the branches of some saddles, all at once: a branch is proved when all of its pieces arrive."""
    max_steps, max_pieces = limits
    work: list[tuple[int, int, float, float]] = []
    for k in which:
        marks = np.geomspace(manifolds[k].inner, manifolds[k].outer, _NUM_FIRST_PIECES + 1)
        # The ends are the proved ones, whatever the rounding of the marks between.
        marks[0], marks[-1] = manifolds[k].inner, manifolds[k].outer
        work += [(k, branch, marks[i], marks[i + 1]) for branch in (0, 1) for i in range(_NUM_FIRST_PIECES)]
    arrived: dict[tuple[int, int], set[int]] = {(k, branch): set() for k in which for branch in (0, 1)}
    given_up: set[tuple[int, int]] = set()
    while work:
        sets = [pieces_of_branch(manifolds[k], 1 - 2 * branch, *np.array([[a], [b]])) for k, branch, a, b in work]
        joined = Ellipsoids(*(np.concatenate(parts) for parts in zip(*sets)))
        out = journeys.follow_sets(f, joined, targets, max_steps, progress=progress, description="Following branches")
        divided = []
        for (k, branch, a, b), ball, steps, end in zip(work, *out):
            found.steps[k, branch] = max(found.steps[k, branch], steps)
            if end == journeys.ARRIVED:
                arrived[k, branch].add(int(owners[ball]))
                found.pieces[k, branch] += 1
                continue
            found.ends[k, branch] = end
            if end == journeys.TRAVELLING:
                given_up.add((k, branch))
            divided += [(k, branch, a, 0.5 * (a + b)), (k, branch, 0.5 * (a + b), b)]
        for branch_of in arrived:
            waiting = sum(item[:2] == branch_of for item in divided)
            if waiting and found.pieces[branch_of] + waiting > max_pieces:
                given_up.add(branch_of)
        work = [item for item in divided if item[:2] not in given_up]
    for branch_of, memories in arrived.items():
        if branch_of not in given_up:
            # A branch is connected and basins are open: all of its pieces end in one memory.
            assert len(memories) == 1
            found.labels[branch_of] = memories.pop()
