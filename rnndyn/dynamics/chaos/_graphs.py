"""Graphs of covering relations: the sets at a saddle and its loops, with all that is claimed of them."""

import dataclasses
from collections.abc import Callable

import numpy as np

from rnndyn.dynamics.chaos._bases import Base
from rnndyn.dynamics.chaos._h_sets import HSet, images
from rnndyn.dynamics.chaos._loops import Loop
from rnndyn.dynamics.chaos._saddles import Saddle
from rnndyn.dynamics.chaos.chaos_proof import ChaosProof
from rnndyn.dynamics.chaos.claims import Claim, claim, claimed_growths, cone_slopes
from rnndyn.dynamics.chaos.covering import is_disjoint
from rnndyn.dynamics.chaos.symbolic import entropy_bound, least_cycle_mean, tells_paths_apart
from rnndyn.dynamics.chaos.verdicts import HorseshoeVerdict

_PIECES_FOR_CONES = (4, 16)


@dataclasses.dataclass(frozen=True)
class Graph:
    """H-sets and the covering relations between them."""

    sets: list[HSet]
    num_pieces: list[int]
    edges: list[tuple[int, int]]
    claims: list[Claim]
    entropy: float


def graph_of(f: Callable, base: Base, loops: list[Loop]) -> Graph | None:
    """All relations of the base and its loops, verified; `None` where a claim fails or paths are not told apart."""
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
    claims = _claims(f, sets, pieces, edges, u)
    if claims is None:
        return None
    pairs = np.asarray(edges)
    if not tells_paths_apart(pairs, overlaps(sets, u)):
        return None
    return Graph(sets, pieces, edges, claims, entropy_bound(pairs, len(sets)))


def _claims(
    f: Callable, sets: list[HSet], pieces: list[int], edges: list[tuple[int, int]], u: int
) -> list[Claim] | None:
    over = {i: images(f, sets[i], u, pieces[i]) for i in sorted({i for i, _ in edges})}
    claims: list[Claim] = []
    for i, j in edges:
        claims.append(claim(over[i], sets[j], u))
        if not claims[-1].holds:
            return None
    return claims


def with_cones(f: Callable, base: Base, graph: Graph) -> Graph:
    """The graph with its sets cut into more pieces, where cones need that: derivatives vary over a wide set."""
    u = base.saddle.num_unstable
    for count in _PIECES_FOR_CONES if u == 1 else ():
        slopes = cone_slopes(np.asarray(graph.edges), [one.proved for one in graph.claims], len(graph.sets))
        if np.isfinite(slopes).all():
            break
        pieces = [max(count, number) for number in graph.num_pieces]
        claims = _claims(f, graph.sets, pieces, graph.edges, u)
        if claims is not None:
            graph = dataclasses.replace(graph, num_pieces=pieces, claims=claims)
    return graph


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


def chaos_proof(saddle: Saddle, loops: list[Loop], graph: Graph) -> ChaosProof:
    """The certificate of a graph."""
    edges, count = np.asarray(graph.edges), len(graph.sets)
    exponent = 0.0
    slopes = cone_slopes(edges, [one.proved for one in graph.claims], count)
    growths, margins = claimed_growths(edges, graph.claims, slopes)
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
        expansions=np.asarray([one.expansion for one in graph.claims]),
        contractions=np.asarray([one.contraction for one in graph.claims]),
        growths=growths,
        margins=np.column_stack([np.asarray([one.margins for one in graph.claims]), margins]),
        result=HorseshoeVerdict.horseshoe,
        reason="",
    )
