"""Sets at a saddle that cover one another: where the loops of a horseshoe start and end."""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

from rnndyn.dynamics.chaos._h_sets import HSet, images
from rnndyn.dynamics.chaos._saddles import Saddle, contracting_bases, contraction_rate
from rnndyn.dynamics.chaos.covering import Terms, covering, terms
from rnndyn.dynamics.proofs.interval_arithmetic import midpoint

# Of the sets at the saddle, in units of the spread of the states.
_SIZES = (0.3, 0.2, 0.13, 0.08, 0.05, 0.03, 0.02, 0.01, 5e-3, 2.5e-3, 1.2e-3, 6e-4, 3e-4)
# How often a set at the saddle is sized for the errors over it, and how much room they are given.
_NUM_SIZED = 2
_SHARE = 1.0
# Pieces of a set at the saddle, and its thicknesses: one is what bend and errors alone need.
_TRIALS = ((1, (1.4, 4.0)), (4, (1.4, 4.0)))
# Pieces take their part of the errors only: above this, smaller ones will not do.
_HOPELESS = 6.0


@dataclasses.dataclass(frozen=True)
class Base:
    """H-sets at the points of a saddle, each of which covers the next; `num_pieces` are needed to show it."""

    saddle: Saddle
    sets: list[HSet]
    num_pieces: int


def bases(f: Callable, saddle: Saddle, scale: float, is_over: Callable[[], bool]) -> Iterator[Base]:
    """Sets at the saddle that close, from large to small, until `is_over`."""
    for size in _SIZES:
        if is_over():
            return
        yield from bases_of_size(f, saddle, size * scale)


def bases_of_size(f: Callable, saddle: Saddle, width: float) -> Iterator[Base]:
    """Sets at the saddle, `width` along its unstable directions, each of which covers the next; thin ones first.

    The stable shapes are those that the sets need: the bend of the image of the unstable axes, and what this becomes
    step by step, with some width in all directions.
    """
    u = saddle.num_unstable
    rate = contraction_rate(saddle.squeezes)  # pyright: ignore[reportArgumentType]
    num_stable = saddle.squeezes.shape[1]
    for num_pieces, thicknesses in _TRIALS if u == 1 else _TRIALS[:1]:
        num_pieces = num_pieces if u == 1 else 1
        for thickness in thicknesses if num_stable else (1.0,):
            # The errors of a set grow with its thickness: it is sized for those of the last one.
            sets = [
                HSet(one, np.concatenate([width * wide, 0 * stable], axis=1)) for one, wide, stable in _axes(saddle)
            ]
            for _ in range(_NUM_SIZED if num_stable else 0):
                widths, twists = _widths_needed(f, saddle, sets, num_pieces)
                if not all(np.isfinite(one).all() for one in widths):
                    return
                inward = contracting_bases(list(saddle.squeezes), widths, rate, twists)
                if inward is None:
                    return
                # |bend| + rate < 1 needs more than one of these.
                thick = thickness / (1 - rate)
                sets = [
                    HSet(one, np.concatenate([width * wide, thick * stable @ inward[k]], axis=1))
                    for k, (one, wide, stable) in enumerate(_axes(saddle))
                ]
            closes, may_close = _close_up(f, sets, u, num_pieces)
            if closes:
                yield Base(saddle, sets, num_pieces)
            if not may_close:
                return


def _axes(saddle: Saddle) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    return zip(saddle.points, saddle.unstable, saddle.stable)


def _widths_needed(
    f: Callable, saddle: Saddle, sets: list[HSet], num_pieces: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Columns, in stable coordinates of each point, of ellipsoids that hold the bend of the image and the errors.

    The enclosure of a bend is a box in all N units, as wide as the bend in each of them: sets that are thin across
    the bend itself would not hold it.
    """
    period, u = saddle.period, saddle.num_unstable
    size = saddle.squeezes.shape[1]
    widths, twists = [np.zeros((0, 0))] * period, [np.zeros((0, size, size))] * period
    for k, one in enumerate(sets):
        following = (k + 1) % period
        axes = np.concatenate([saddle.unstable[following], saddle.stable[following]], axis=1)
        dual = np.linalg.inv(axes)[u:]
        # In the coordinates of the axes, that is without the shape of the last ellipsoid.
        unshaped = np.linalg.pinv(one.axes[:, u:]) @ saddle.stable[k] if np.any(one.axes[:, u:]) else None
        pieces = images(f, one, u, num_pieces).pieces
        these = terms(pieces, u)
        away = np.asarray(midpoint(pieces.plain.center)) - saddle.points[following]
        bend = dual @ bent(these, away)
        errors = dual * these.rest[:, None, :] * np.sqrt(these.rest.shape[1])
        # Each direction gets a floor, or the ellipsoid would be singular.
        floor = 1e-3 / np.sqrt(len(dual)) * np.eye(len(dual))
        floor = np.linalg.norm(bend, axis=(1, 2))[:, None, None] * floor
        share = 1 / np.sqrt(num_pieces)
        widths[following] = np.concatenate([*(bend * share), *(_SHARE * errors * share), *floor], axis=1)
        if unshaped is not None and num_pieces == 1:
            twists[k] = np.einsum("ij,jkl,lm->kim", dual, these.twist[0], unshaped)
    return widths, twists


def bent(one: Terms, away: np.ndarray) -> np.ndarray:
    """Columns (..., N, _): where the image of the unstable axes lies beside the centre."""
    return np.concatenate([away[..., None], one.outward, 0.5 * one.bend.reshape(*away.shape, -1)], axis=-1)


def _close_up(f: Callable, sets: list[HSet], u: int, num_pieces: int) -> tuple[bool, bool]:
    """Whether each set covers the next with room to spare, and whether smaller pieces might show it."""
    for k, one in enumerate(sets):
        edge = covering(images(f, one, u, num_pieces), sets[(k + 1) % len(sets)], u, with_cones=False)
        if not (edge.expansion > 1.02 and edge.contraction < 0.97):
            return False, edge.expansion > 0 and edge.contraction < _HOPELESS
    return True, True
