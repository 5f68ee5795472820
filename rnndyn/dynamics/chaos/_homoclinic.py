"""Orbits that leave a saddle and come back to it, found where a trajectory nearly does so."""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from rnndyn.dynamics.chaos._saddles import Saddle, null_space
from rnndyn.dynamics.numerics.evaluation import evaluate

_NUM_NEWTON = 12
_CONVERGED = 1e-11
# Ends of the orbit lie this close to the saddle, in units of the spread of the states. Sets at the saddle are much
# thinner than wide.
_START, _END = 1e-6, 1e-7
_LONGEST_END = 60
_LEAST_ANGLE = 1e-3
# How close states come to a homoclinic orbit that they follow, in units of their spread.
_AMONG = 0.15


@dataclasses.dataclass(frozen=True)
class Homoclinic:
    """An orbit from near a saddle back to it, K + 1 points, and what is unstable and stable along it.

    - `points`: (K + 1, N); `phase`: the point of the cycle that the first of them is near; `end_phase`, the last.
    - `jacobians`: (K + 1, N, N).
    - `left`: (K + 1, u, N), rows pulled back from the saddle: they vanish on what comes back to it.
    - `angle`: the least sine between the unstable directions and the stable hyperplane along it.
    """

    points: Float[np.ndarray, "K1 N"]
    phase: int
    end_phase: int
    jacobians: Float[np.ndarray, "K1 N N"]
    left: Float[np.ndarray, "K1 u N"]
    angle: float

    def kernel(self, j: int) -> Float[np.ndarray, "N S"]:
        """An orthonormal basis of the stable hyperplane at a point."""
        return null_space(self.left[j])


def find_homoclinics(
    f: Callable, saddle: Saddle, states: Float[np.ndarray, "T N"], scale: float, max_tried: int
) -> tuple[list[Homoclinic], int]:
    """Transversal homoclinic orbits of a saddle, the shortest first, and the number of near returns that were tried.

    A piece of the trajectory that starts near the saddle, goes away and comes back is led on by the linear map at
    both ends, and corrected by Newton's method for the boundary value problem: the first point on the unstable
    plane, the last on the stable one.
    """
    pieces = _returns(saddle, states, scale)
    found: list[Homoclinic] = []
    for start, end, phase, end_phase in pieces[:max_tried]:
        orbit = _prolonged(saddle, states[start : end + 1], phase, end_phase, scale)
        if orbit is None:
            continue
        orbit, phase, end_phase = orbit
        refined = _refine(f, saddle, orbit, phase, end_phase, scale)
        if refined is not None and _is_among(refined, states, scale) and not _is_known(refined, found, scale):
            found.append(refined)
    found.sort(key=lambda one: (len(one.points), -one.angle))
    return found, len(pieces)


def _returns(saddle: Saddle, states: np.ndarray, scale: float) -> list[tuple[int, int, int, int]]:
    """(start, end, phase, end phase) of pieces of the trajectory, the most promising ones first."""
    outward = np.full((saddle.period, len(states)), np.inf)
    inward = outward.copy()
    for k in range(saddle.period):
        unstable, stable = saddle.coordinates(k, states)
        size_u = np.linalg.norm(unstable @ saddle.unstable[k].T, axis=1)
        size_s = np.linalg.norm(stable @ saddle.stable[k].T, axis=1) if stable.shape[1] else np.zeros(len(states))
        # Near the unstable plane with room to be led back, near the stable one likewise.
        outward[k] = size_s + 0.3 * size_u
        inward[k] = size_u + 0.3 * size_s
    near = np.min(np.linalg.norm(states[:, None] - saddle.points, axis=2), axis=1)
    pieces = []
    for close in (0.05, 0.1, 0.2, 0.35):
        inside = near < close * scale
        leaves = np.flatnonzero(inside[:-1] & ~inside[1:])
        comes = np.flatnonzero(~inside[:-1] & inside[1:]) + 1
        for start in leaves:
            for end in comes[np.searchsorted(comes, start + 1) :][:3]:
                if end - start > 60:
                    break
                if near[start : end + 1].max() < max(0.5 * scale, 2 * close * scale):
                    continue
                phase, end_phase = int(np.argmin(outward[:, start])), int(np.argmin(inward[:, end]))
                quality = (outward[phase, start] + inward[end_phase, end]) / scale
                pieces.append((quality * (end - start), int(start), int(end), phase, end_phase))
    chosen, seen = [], set()
    for _, *piece in sorted(pieces):
        if tuple(piece) not in seen:
            seen.add(tuple(piece))
            chosen.append(tuple(piece))
    return chosen


def _prolonged(
    saddle: Saddle, piece: np.ndarray, phase: int, end_phase: int, scale: float
) -> tuple[np.ndarray, int, int] | None:
    """The piece with ends led on by the linear map until they are close to the saddle."""
    period, u = saddle.period, saddle.num_unstable
    before, after = [], []
    z = saddle.coordinates(phase, piece[:1])[0][0]
    while np.linalg.norm(saddle.unstable[phase] @ z) > _START * scale:
        if len(before) == _LONGEST_END:
            return None
        step = _along(saddle, (phase - 1) % period)
        phase = (phase - 1) % period
        z = np.linalg.solve(step[:u, :u], z)
        before.insert(0, saddle.points[phase] + saddle.unstable[phase] @ z)
    q = saddle.coordinates(end_phase, piece[-1:])[1][0]
    while q.size and np.linalg.norm(saddle.stable[end_phase] @ q) > _END * scale:
        if len(after) == _LONGEST_END:
            return None
        q = _along(saddle, end_phase)[u:, u:] @ q
        end_phase = (end_phase + 1) % period
        after.append(saddle.points[end_phase] + saddle.stable[end_phase] @ q)
    return (
        np.concatenate([np.reshape(before, (-1, piece.shape[1])), piece, np.reshape(after, (-1, piece.shape[1]))]),
        phase,
        end_phase,
    )


def _along(saddle: Saddle, phase: int) -> np.ndarray:
    """The derivative of one step at a point of the cycle, in the coordinates of the frames."""
    following = (phase + 1) % saddle.period
    here = np.concatenate([saddle.unstable[phase], saddle.stable[phase]], axis=1)
    there = np.concatenate([saddle.unstable[following], saddle.stable[following]], axis=1)
    return np.linalg.solve(there, saddle.jacobians[phase] @ here)


def _refine(
    f: Callable, saddle: Saddle, orbit: np.ndarray, phase: int, end_phase: int, scale: float
) -> Homoclinic | None:
    """Newton's method for the whole orbit: unstable components solved backward in time, the others forward.

    The rows l_j = l_{j+1} DF_j turn the linear system into two recursions that both contract, so a long and strongly
    unstable orbit costs and loses nothing.
    """
    first, last = saddle.points[phase], saddle.points[end_phase]
    plane, rows = saddle.unstable[phase], saddle.left[end_phase]
    length = len(orbit)
    for _ in range(_NUM_NEWTON):
        images, jacobians = evaluate(f, orbit)
        if not (np.isfinite(images).all() and np.isfinite(jacobians).all()):
            return None
        left, pulls = _pulled_back(rows, jacobians)
        if left is None:
            return None
        pushed = _pushed_forward(plane, jacobians)
        defect = images[:-1] - orbit[1:]
        wanted = np.empty((length, len(rows)))
        wanted[-1] = -rows @ (orbit[-1] - last)
        for j in range(length - 2, -1, -1):
            wanted[j] = np.linalg.solve(pulls[j], wanted[j + 1] - left[j + 1] @ defect[j])
        cosines = np.array([np.linalg.svd(a @ b, compute_uv=False)[-1] for a, b in zip(left, pushed)])
        if cosines.min() < 1e-9:
            return None
        step = np.empty_like(orbit)
        from_plane = orbit[0] - first
        step[0] = plane @ np.linalg.solve(left[0] @ plane, wanted[0] + left[0] @ from_plane) - from_plane
        for j in range(length - 1):
            ahead = jacobians[j] @ step[j] + defect[j]
            missing = wanted[j + 1] - left[j + 1] @ ahead
            step[j + 1] = ahead + pushed[j + 1] @ np.linalg.solve(left[j + 1] @ pushed[j + 1], missing)
        size = np.max(np.linalg.norm(step, axis=1))
        if size > 0.5 * scale:
            step *= 0.5 * scale / size
        orbit = orbit + step
        if size < _CONVERGED * scale:
            break
    else:
        return None
    away = np.min(np.linalg.norm(orbit[:, None] - saddle.points, axis=2), axis=1)
    if away.max() < 0.2 * scale or cosines.min() < _LEAST_ANGLE or max(away[0], away[-1]) > 0.02 * scale:
        return None
    return Homoclinic(orbit, phase, end_phase, jacobians, left, float(cosines.min()))


def _pulled_back(rows: np.ndarray, jacobians: np.ndarray) -> tuple[np.ndarray | None, list[np.ndarray]]:
    left, pulls = [rows], []
    for jacobian in jacobians[-2::-1]:
        basis, triangle = np.linalg.qr((left[0] @ jacobian).T)
        if np.min(np.abs(np.diagonal(triangle))) < 1e-12:
            return None, []
        # l_{j+1} DF_j = M_j l_j.
        pulls.insert(0, triangle.T)
        left.insert(0, basis.T)
    return np.stack(left), pulls


def _pushed_forward(plane: np.ndarray, jacobians: np.ndarray) -> np.ndarray:
    pushed = [np.linalg.qr(plane)[0]]
    for jacobian in jacobians[:-1]:
        pushed.append(np.linalg.qr(jacobian @ pushed[-1])[0])
    return np.stack(pushed)


def _is_among(one: Homoclinic, states: np.ndarray, scale: float) -> bool:
    """Whether states come close to all of it: beside a stable cycle there may be orbits that none follows any more."""
    return all(np.linalg.norm(states - point, axis=1).min() < _AMONG * scale for point in one.points)


def _is_known(one: Homoclinic, found: list[Homoclinic], scale: float) -> bool:
    """Whether the orbit was found already, perhaps with ends of another length."""
    away = one.points[np.argmax(np.linalg.norm(one.points - one.points[0], axis=1))]
    return any(np.linalg.norm(other.points - away, axis=1).min() < 1e-5 * scale for other in found)
