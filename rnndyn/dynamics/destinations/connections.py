"""Proofs of where the unstable branches of saddles lead: the wiring diagram of a memory network."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, Int

from rnndyn._validation import check_at_least
from rnndyn.dynamics.destinations import _journeys as journeys
from rnndyn.dynamics.destinations._arrivals import LONGEST_SETTLING, find_arrivals
from rnndyn.dynamics.destinations._orbits import Points, as_cycles, check_kept
from rnndyn.dynamics.destinations._sets import Balls, Ellipsoids
from rnndyn.dynamics.destinations._unstable_directions import (
    LocalManifold,
    NoManifold,
    enclose_manifold,
    pieces_of_branch,
    unstable_direction,
)
from rnndyn.dynamics.destinations.trapping_balls import TrappingBalls, trapping_balls_of
from rnndyn.dynamics.destinations.verdicts import DestinationVerdict
from rnndyn.dynamics.numerics.drivers import let_in
from rnndyn.dynamics.proofs.krawczyk import interval_precision
from rnndyn.dynamics.proofs.layer_forms import Layer, one_layer
from rnndyn.results import Judged, Result, first_verdict, is_verdict

_NUM_FIRST_PIECES = 2


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
    stretch is cut into pieces, each followed as an ellipsoid until it lies in a trapping ball (as states are by
    `certify_basins`); a piece that grows too long is cut again. For a cycle the branches at its first point stand for
    all: the others are their images.

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
        scale = 0.1 * float(np.max(np.abs(balls.centers - balls.centers.mean(axis=0)), initial=0.0) or 1.0)
        manifolds = [enclose_manifold(returns[len(c)], c[0], frame, scale) for c, (frame, _) in zip(cycles, frames)]
        arrivals = find_arrivals(let_in(f, balls.centers[0]), balls, min(max_steps, LONGEST_SETTLING))
        targets, rows = arrivals.targets, arrivals.rows
        found = _Branches(len(cycles))
        for period, return_map in returns.items():
            which = [k for k, c in enumerate(cycles) if len(c) == period and isinstance(manifolds[k], LocalManifold)]
            if which and rows.size:
                limits = max_steps, max_pieces
                _follow(return_map, manifolds, which, found, targets, balls.owners[rows], limits, progress)
    missing = np.array([isinstance(manifold, NoManifold) for manifold in manifolds])[:, None]
    result = first_verdict(
        (found.labels >= 0, DestinationVerdict.proved),
        (missing & np.ones((1, 2), bool), DestinationVerdict.no_branch),
        (found.ends == journeys.BLURRED, DestinationVerdict.blurred),
        (found.ends == journeys.NOT_FINITE, DestinationVerdict.not_finite),
        otherwise=DestinationVerdict.not_arrived,
    )
    known = [None if isinstance(manifold, NoManifold) else manifold for manifold in manifolds]
    reasons = tuple(
        tuple(_reason(manifolds[k], found, k, branch, rows.size, max_pieces) for branch in (0, 1))
        for k in range(len(cycles))
    )
    return CertifiedConnections(
        saddles=np.stack([cycle[0] for cycle in cycles]),
        periods=np.array([len(cycle) for cycle in cycles]),
        frames=np.stack([frame for frame, _ in frames]),
        multipliers=np.array([multiplier for _, multiplier in frames]),
        sizes=np.stack([np.zeros(2) if m is None else m.sizes for m in known]),
        bounds=np.stack([np.full(7, np.nan) if m is None else m.bounds for m in known]),
        slopes=np.array([np.nan if m is None else m.slope for m in known]),
        blurs=np.stack([np.full(2, np.nan) if m is None else m.blurs for m in known]),
        inner=np.array([0.0 if m is None else m.inner for m in known]),
        outer=np.array([0.0 if m is None else m.outer for m in known]),
        labels=found.labels,
        pieces=found.arrived(rows),
        balls=balls,
        multiples=arrivals.multiples,
        settling=arrivals.settling,
        result=result,
        reasons=reasons,
    )


class Pieces(Result):
    """The M pieces into which the branches of saddles were cut, each followed into a ball.

    - `saddles`, `branches`: which branch of which saddle, (M,).
    - `starts`, `ends`: distances from the saddle along its unstable direction, (M,).
    - `steps`: iterations of the map (of the whole cycle, for a saddle that is one) until the piece lies within
        `multiples` times the radius of the ball `entered`, a row of the `TrappingBalls`, (M,).
    """

    saddles: Int[np.ndarray, " M"]
    branches: Int[np.ndarray, " M"]
    starts: Float[np.ndarray, " M"]
    ends: Float[np.ndarray, " M"]
    steps: Int[np.ndarray, " M"]
    entered: Int[np.ndarray, " M"]

    def __len__(self) -> int:
        return len(self.saddles)


class CertifiedConnections(Judged):
    """Where the unstable branches of K saddles are proved to end; branch 0 leaves along `directions`, 1 against it.

    - `saddles`: the saddles, of a cycle the first point, (K, N); `periods`: (K,).
    - `frames`: A, (K, N, N): near each saddle states are x = saddle + A (u, s), u along the unstable direction.
    - `multipliers`: of the whole cycle, (K,).
    - `sizes`: r_u and r_s, (K, 2): the set |u| <= r_u, |s|_2 <= r_s over which `bounds` hold; zero where none was.
    - `bounds`: (K, 7): with [[a, b], [c, D]] the derivative over the set and o = F(c) - c, the least and the largest a,
        and upper bounds of |b|, |c|, |D|, |o_u| and |o_s|.
    - `slopes`, `blurs`: |s - s*| <= slope |u - u*| on the unstable manifold, (K,), with |u*| and |s*| at most `blurs`
        (K, 2) at the saddle itself.
    - `inner`, `outer`: the stretch of the unstable manifold that was followed, as distances along the direction, (K,).
    - `labels`: the row of `points` where each branch ends, (K, 2); -1 where nothing was proved.
    - `pieces`: the `Pieces` of which the stretches consist, of the branches that are proved.
    - `balls`: the `TrappingBalls` of the memories, B of them; `multiples`, `settling`: as in `CertifiedBasins`, (B,).
    - `result`: a batch (K, 2) of `DestinationVerdict`; `reasons`: what stood in the way of each branch, with numbers,
        K pairs; empty where it is proved.
    """

    saddles: Float[np.ndarray, "K N"]
    periods: Int[np.ndarray, " K"]
    frames: Float[np.ndarray, "K N N"]
    multipliers: Float[np.ndarray, " K"]
    sizes: Float[np.ndarray, "K 2"]
    bounds: Float[np.ndarray, "K 7"]
    slopes: Float[np.ndarray, " K"]
    blurs: Float[np.ndarray, "K 2"]
    inner: Float[np.ndarray, " K"]
    outer: Float[np.ndarray, " K"]
    labels: Int[np.ndarray, "K 2"]
    pieces: Pieces
    balls: TrappingBalls
    multiples: Float[np.ndarray, " B"]
    settling: Int[np.ndarray, " B"]
    result: DestinationVerdict
    reasons: tuple[tuple[str, ...], ...]

    @property
    def directions(self) -> Float[np.ndarray, "K N"]:
        """The unstable direction of each saddle."""
        return self.frames[:, :, 0]

    @property
    def num_pieces(self) -> Int[np.ndarray, "K 2"]:
        """Into how many pieces each branch was cut."""
        return self._per_branch(np.add, 1)

    @property
    def steps(self) -> Int[np.ndarray, "K 2"]:
        """The largest number of iterations of any piece of each branch."""
        return self._per_branch(np.maximum, self.pieces.steps)

    def _per_branch(self, gather: np.ufunc, values: Any) -> Int[np.ndarray, "K 2"]:
        out = np.zeros(self.labels.shape, int)
        gather.at(out, (self.pieces.saddles, self.pieces.branches), values)
        return out

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
        steps, pieces = self.steps, self.num_pieces
        for k in range(min(len(self), 30)):
            ends = " - ".join("?" if label < 0 else str(label) for label in self.labels[k])
            missing = "; ".join(sorted({self.reasons[k][i] for i in range(2) if self.reasons[k][i]}))
            numbers = f"{steps[k].max():5d}  {pieces[k].sum():6d}"
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
    """What is known of the branches of K saddles, (K, 2) each, and their pieces that have arrived."""

    def __init__(self, num: int) -> None:
        self.labels = np.full((num, 2), -1)
        self.ends = np.full((num, 2), journeys.TRAVELLING)
        self.words = np.full((num, 2), "", object)
        self.pieces: dict[tuple[int, int], list[tuple[float, float, int, int]]] = {
            (k, branch): [] for k in range(num) for branch in (0, 1)
        }

    def is_blurred(self, key: tuple[int, int]) -> bool:
        """Whether another way to follow the branch may help."""
        return self.labels[key] < 0 and self.ends[key] == journeys.BLURRED

    def arrived(self, rows: np.ndarray) -> "Pieces":
        """The pieces of what is proved, in order."""
        proved = [key for key in self.pieces if self.labels[key] >= 0]
        table = [(*key, *piece) for key in proved for piece in sorted(self.pieces[key])]
        columns = list(zip(*table)) if table else [()] * 6
        whole = [np.array(columns[i], int) for i in (0, 1, 4, 5)]
        starts, ends = (np.array(columns[i], float) for i in (2, 3))
        entered = rows[whole[3]] if len(table) else whole[3]
        return Pieces(whole[0], whole[1], starts, ends, whole[2], entered)


def _reason(
    manifold: LocalManifold | NoManifold, found: _Branches, k: int, branch: int, num_balls: int, max_pieces: int
) -> str:
    """What stood in the way of a branch, and what may help."""
    if found.labels[k, branch] >= 0:
        return ""
    if isinstance(manifold, NoManifold):
        return f"{manifold.words}: polish the saddle; with a multiplier very near 1 in modulus nothing helps"
    if not num_balls:
        return "no memory has a trapping ball"
    return found.words[k, branch]


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
    """Follow the branches of some saddles, all at once: a branch is proved when all of its pieces arrive.

    As slim sets, where f has one layer, and as ellipsoids that are fitted to their images what these have lost.
    """
    layer = one_layer(f, manifolds[which[0]].center.size)
    keys = [(k, branch) for k in which for branch in (0, 1)]
    for engine in (layer, None) if layer is not None else (None,):
        left = [key for key in keys if found.labels[key] < 0 and (engine is layer or found.is_blurred(key))]
        if left:
            _follow_branches(f, engine, manifolds, left, found, targets, owners, limits, progress)


def _follow_branches(
    f: Callable,
    layer: Layer | None,
    manifolds: list[Any],
    branches: list[tuple[int, int]],
    found: _Branches,
    targets: Balls,
    owners: np.ndarray,
    limits: tuple[int, int],
    progress: bool,
) -> None:
    max_steps, max_pieces = limits
    work: list[tuple[int, int, float, float]] = []
    for k, branch in branches:
        found.pieces[k, branch] = []
        marks = np.geomspace(manifolds[k].inner, manifolds[k].outer, _NUM_FIRST_PIECES + 1)
        # The ends are the proved ones, whatever the rounding of the marks between.
        marks[0], marks[-1] = manifolds[k].inner, manifolds[k].outer
        work += [(k, branch, marks[i], marks[i + 1]) for i in range(_NUM_FIRST_PIECES)]
    given_up: set[tuple[int, int]] = set()
    while work:
        sets = [pieces_of_branch(manifolds[k], 1 - 2 * branch, *np.array([[a], [b]])) for k, branch, a, b in work]
        joined = Ellipsoids(*(np.concatenate(parts) for parts in zip(*sets)))
        words = {"progress": progress, "description": "Following branches"}
        if layer is None:
            out = journeys.follow_sets(f, joined, targets, max_steps, **words)
        else:
            out = journeys.follow_slim_sets(f, layer, joined, targets, max_steps, **words)
        divided = []
        for row, (k, branch, a, b) in enumerate(work):
            if out.ends[row] == journeys.ARRIVED:
                found.pieces[k, branch].append((a, b, int(out.steps[row]), int(out.balls[row])))
                continue
            found.ends[k, branch] = out.ends[row]
            where = f"the piece at distances {a:.4g} to {b:.4g} from the saddle {out.words(row, owners)}"
            found.words[k, branch] = where
            if out.ends[row] == journeys.TRAVELLING:
                given_up.add((k, branch))
            divided += [(k, branch, a, 0.5 * (a + b)), (k, branch, 0.5 * (a + b), b)]
        for key in branches:
            waiting = sum(item[:2] == key for item in divided)
            if key not in given_up and waiting and len(found.pieces[key]) + waiting > max_pieces:
                found.words[key] += f"; raise max_pieces, {max_pieces} now"
                given_up.add(key)
        work = [item for item in divided if item[:2] not in given_up]
    for key in branches:
        if key not in given_up:
            # A branch is connected and basins are open: all of its pieces end in one memory.
            (memory,) = {int(owners[ball]) for *_, ball in found.pieces[key]}
            found.labels[key] = memory
