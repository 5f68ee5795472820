"""Unstable manifolds of saddles, near them and on their way into balls, for the second opinion."""

import numpy as np

from rnndyn.dynamics.destinations import _checker_intervals as iv
from rnndyn.dynamics.destinations._checker_cells import CellStep
from rnndyn.dynamics.destinations._checker_sets import advance, is_inside, rows_of
from rnndyn.dynamics.destinations._checker_slim import covariances_of, slim_arrive
from rnndyn.dynamics.destinations.connections import CertifiedConnections

_ROOT_OF_TWO = 1.4142135623730951 * (1 + 1e-15)


def manifold_fails(found: CertifiedConnections, k: int, step: CellStep) -> str:
    """The first claim about the unstable manifold of one saddle that does not hold; empty where all do."""
    up, down = iv.up, iv.down
    frame, (wide, thin) = found.frames[k], found.sizes[k]
    if not (np.isfinite(frame).all() and (frame == frame.astype(np.float32)).all()):
        return f"saddle {k}: the frame is not made of numbers of float32."
    if not (wide > 0 and thin > 0 and wide == np.float32(wide) and thin == np.float32(thin)):
        return f"saddle {k}: the sizes of the set are not positive numbers of float32."
    sizes = np.concatenate([[wide], np.full(len(frame) - 1, thin)])
    # |u| <= r_u and |s| <= r_s in the ball of radius sqrt(2); the products are exact.
    value, linear = step.over_balls(
        found.saddles[k][None], frame[None] * sizes, np.array([_ROOT_OF_TWO]), int(found.periods[k])
    )
    inverse, loss = iv.inverses_of(frame[None])
    if not loss[0] < 1e-3:
        return f"saddle {k}: the frame has no inverse."
    # R DF A S with R nearly the inverse of A, and A^-1 = (I + E) R with |E| <= loss / (1 - loss), column by column.
    product = tuple(end[0] for end in iv.apply_matrix(inverse, linear))
    beside = up(loss[0] / (1 - loss[0]))
    lost = up(beside * iv.vector_norm(tuple(end.T for end in product)))
    blocks = down(down(product[0] - lost) / sizes), up(up(product[1] + lost) / sizes)
    offset = iv.apply(inverse, iv.sub(value, iv.exactly(found.saddles[k][None])))
    lost = up(beside * float(iv.vector_norm(offset)[0]))
    part = lambda rows, columns: tuple(end[rows, columns] for end in blocks)
    rest = slice(1, None)
    norms = [
        iv.vector_norm(part(0, rest)),
        iv.vector_norm(part(rest, 0)),
        iv.spectral_norm(tuple(end[None] for end in part(rest, rest)))[0] if len(frame) > 1 else 0.0,
        iv.vector_norm(tuple(end[0, :1] for end in offset)) + lost,
        iv.vector_norm(tuple(end[0, 1:] for end in offset)) + lost,
    ]
    claimed = found.bounds[k]
    if not (blocks[0][0, 0] >= claimed[0] and blocks[1][0, 0] <= claimed[1]):
        seen = f"[{blocks[0][0, 0]:.12g}, {blocks[1][0, 0]:.12g}]"
        return (
            f"saddle {k}: a is claimed to lie in [{claimed[0]:.12g}, {claimed[1]:.12g}], and only known to in {seen}."
        )
    for name, norm, claim in zip(("|b|", "|c|", "|D|", "|o_u|", "|o_s|"), norms, claimed[2:]):
        if not norm <= claim:
            return f"saddle {k}: {name} is claimed to be {claim:.12g}, and only known to be below {norm:.12g}."
    return _conditions_fail(found, k)


def _conditions_fail(found: CertifiedConnections, k: int) -> str:
    """The conditions of Zgliczynski (2009), on the numbers as they are claimed."""
    up, down = iv.up, iv.down
    low, high, b, c, D, o_u, o_s = found.bounds[k]
    wide, thin = found.sizes[k]
    slope, (blur_u, blur_s) = found.slopes[k], found.blurs[k]
    inner, outer = found.inner[k], found.outer[k]
    if not (low > 1 or high < -1):
        return f"saddle {k}: a in [{low:.6g}, {high:.6g}] does not stretch."
    if not (min(b, c, D, o_u, o_s, slope, blur_u, blur_s) >= 0 and 0 < inner < outer):
        return f"saddle {k}: a bound is negative or no stretch is left."
    least, most = min(abs(low), abs(high)), max(abs(low), abs(high))
    growth = down(least - up(b * slope))
    largest = up(most + up(b * slope))
    room, from_one = down(1 - D), down(least - 1) if low > 1 else down(least + 1)
    u_star = up(up(up(b * o_s) / room + o_u) / down(from_one - up(up(b * c) / room)))
    far = down(down(wide - blur_u))
    near = down(outer / largest) if low > 1 else down(down(outer / largest) / largest)
    holds = {
        "|D| < 1": room > 0,
        "|c| + |D| < 1": up(c + D) < 1,
        "|a| - |b| > 1": down(least - b) > 1,
        "|a| - |b| k > 1": growth > 1,
        "|c| + |D| k < k (|a| - |b| k)": up(c + up(D * slope)) < down(slope * growth),
        "|a| r_u - |b| r_s - o_u > r_u": down(down(least * wide) - up(up(b * thin) + o_u)) > wide,
        "|c| r_u + |D| r_s + o_s < r_s": up(up(up(c * wide) + up(D * thin)) + o_s) < thin,
        "|u*| <= the first blur": down(from_one - up(up(b * c) / room)) > 0 and up(u_star) <= blur_u,
        "|s*| <= the second blur": up(up(up(c * blur_u) + o_s) / room) <= blur_s,
        "outer <= r_u - |u*|": outer <= far,
        "inner <= outer / growth": inner <= near,
    }
    for name, held in holds.items():
        if not held:
            return f"saddle {k}: {name} does not hold for the claimed numbers."
    return ""


def pieces_fail(found: CertifiedConnections, step: CellStep) -> str:
    """The first branch whose pieces leave a gap, or piece that does not arrive; empty where all do."""
    pieces, balls = found.pieces, found.balls
    for k, branch in np.argwhere(found.labels >= 0):
        rows = np.flatnonzero((pieces.saddles == k) & (pieces.branches == branch))
        rows = rows[np.argsort(pieces.starts[rows])]
        starts, ends = pieces.starts[rows], pieces.ends[rows]
        joined = rows.size and starts[0] <= found.inner[k] and ends[-1] >= found.outer[k] and (ends > starts).all()
        if not (joined and (starts[1:] <= ends[:-1]).all() and starts[0] > 0):
            return f"branch {branch} of saddle {k}: its pieces do not cover the stretch from {found.inner[k]:.6g} on."
        entered = pieces.entered[rows]
        known = (entered >= 0) & (entered < len(balls.radii))
        entered = np.where(known, entered, 0)
        if not (known & (balls.owners[entered] == found.labels[k, branch]) & (balls.radii[entered] > 0)).all():
            return f"branch {branch} of saddle {k}: a piece enters a ball of no memory {found.labels[k, branch]}."
        sets = _pieces(found, int(k), 1 - 2 * int(branch), starts, ends)
        there = np.zeros(len(rows), bool)
        if found.periods[k] == 1:
            start = sets[0], covariances_of(*sets[1:])
            there = slim_arrive(step, start, pieces.steps[rows], entered, balls, found.multiples)
        if there.all():
            continue
        for t in range(int(pieces.steps[rows].max(initial=0)) + 1):
            now = pieces.steps[rows] == t
            if now.any():
                there[now] |= is_inside(*rows_of(sets, now), balls, entered[now], found.multiples[entered[now]])
            if (pieces.steps[rows] > t).any():
                sets = advance(step, *sets, int(found.periods[k]))
        if not there.all():
            i = np.argmin(there)
            return (
                f"branch {branch} of saddle {k}: the piece from {starts[i]:.6g} to {ends[i]:.6g} is not in ball "
                f"{entered[i]} after {pieces.steps[rows[i]]} steps."
            )
    return ""


def _pieces(
    found: CertifiedConnections, k: int, side: int, starts: np.ndarray, ends: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ellipsoids that hold x = c + A (u, s), start <= |u - u*| <= end, |s - s*| <= slope |u - u*|, on one side."""
    frame, saddle = found.frames[k], found.saddles[k]
    blur_u, blur_s = found.blurs[k]
    middle = 0.5 * starts + 0.5 * ends
    centers = saddle + side * middle[:, None] * frame[:, 0]
    # Two roundings; in coordinates of the frame they are at most |R| times as large, beside the loss of R.
    (inverse, _), loss = iv.inverses_of(frame[None])
    rounding = 4 * iv.U * np.linalg.norm(np.abs(saddle) + middle[:, None] * np.abs(frame[:, 0]), axis=1)
    moved = np.linalg.norm(inverse[0]) * rounding * (1 + 1e-9) / (1 - loss[0]) + iv.TINY
    along = np.maximum(ends - middle, middle - starts) + blur_u + moved
    across = found.slopes[k] * ends + blur_s + moved
    sizes = np.concatenate([along[:, None], np.repeat(across[:, None], len(frame) - 1, axis=1)], axis=1)
    sizes = np.nextafter((sizes * (1 + 8 * iv.U)).astype(np.float32), np.float32(np.inf)).astype(np.float64)
    return centers, frame * sizes[:, None, :], np.full(len(starts), _ROOT_OF_TWO)
