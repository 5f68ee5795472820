"""A second opinion on a proof of contraction, for driven tanh networks, in plain NumPy: no intervals, no JAX."""

from typing import Any

import numpy as np
from jaxtyping import Float

from rnndyn.dynamics.chaos.contraction_proof import ContractionProof
from rnndyn.dynamics.proofs.recheck import Recheck

_U = 2.0**-53
_TANH = 2.0**-48
"""Relative error granted to `numpy.tanh`: 32 units in the last place."""
_AGREE = 4e-10
"""Two evaluations of the least rate without outward rounding agree to this."""
_GRACE = 1e-13
"""A box is looked at this much larger, so that one that is mapped onto its own edge is found to be kept."""


class ContractionCheck(Recheck):
    """What `check_contraction` found: whether the certificate is `accepted`, and the inequalities that fail.

    **Fields:** those of `Recheck`: `accepted`, and `failures`, a sentence for each inequality that was not shown, which
    begins with "core" where it is one of the core.
    """


def check_contraction(
    proof: ContractionProof, weight: Any, input_weight: Any, bias: Any, leak: float = 1.0
) -> ContractionCheck:
    r"""Check a proof of contraction of $x' = (1 - a) x + a \tanh(W x + V u + b)$ again, independently.

    For differences z = (dx, w), w the difference of the tanh, slopes between m - r and m + r and multipliers l >= 0,

    $$M = \begin{pmatrix} (\rho^2 - (1-a)^2) P + W^T l (m^2 - r^2) W & -a (1-a) P - W^T l m \\ \cdot & l - a^2 P
    \end{pmatrix}$$

    has to be positive definite; the box of states has to be mapped into itself, or the tube c + G w + d with
    $|d|_P \le s$ has to be kept, $|g(c + G w, u) - (c + G w')|_P \le (1 - \rho) s$ with w' shifted by one step, and to
    lie where the slopes were bounded. All of it is evaluated anew from the numbers of the certificate, with a-priori
    bounds of the rounding errors (Higham 2002; for Cholesky's factorisation Rump 2006).

    **Arguments:**

    - `proof`: from `prove_contraction`.
    - `weight`, `input_weight`, `bias`, `leak`: W (N, N), V (N, I), b (N,), a.

    **Returns:** a `ContractionCheck` with `accepted` and, where it is not, the inequalities that fail.

    **Raises:** `ValueError` for a proof of nothing, or weights of another size.

    Higham (2002), *Accuracy and stability of numerical algorithms*, chapter 3; Rump (2006), *Verification of positive
    definiteness*.
    """
    if not proof.proved:
        raise ValueError("proof: it proves nothing, so there is nothing to check.")
    w, v, b = (np.asarray(x, float) for x in (weight, input_weight, bias))
    size, inputs = len(proof.center), len(proof.lower)
    if w.shape != (size, size) or v.shape != (size, inputs) or b.shape != (size,):
        raise ValueError(
            f"weight, input_weight, bias: expected ({size}, {size}), ({size}, {inputs}) and ({size},), "
            f"got {w.shape}, {v.shape} and {b.shape}."
        )
    failures = _failures(proof, w, v, b, float(leak))
    if proof.core is not None:
        # A core is a proof by itself, which says where the trajectories go in the end.
        failures += [f"core: {failure}" for failure in _failures(proof.core, w, v, b, float(leak))]
    return ContractionCheck(not failures, tuple(failures))


# --- helpers


def _failures(proof: ContractionProof, w: np.ndarray, v: np.ndarray, b: np.ndarray, leak: float) -> list[str]:
    rate, metric, scales, center = float(proof.rate), proof.metric, proof.multipliers, proof.center
    size = len(center)
    if not 0 < rate < 1:
        return [f"the claimed rate {rate:.12g} is no contraction."]
    if scales.shape != (size,) or not np.all(scales >= 0):
        return [f"multipliers: expected {size} of at least zero, one for each unit."]
    if not np.array_equal(metric, metric.T) or not _is_positive_definite(metric, np.zeros_like(metric)):
        return ["the metric is not shown to be symmetric and positive definite."]
    failures = []
    in_box = proof.axes.shape[1] == 0
    reach = np.asarray(proof.reach) * (1 + _GRACE) + _GRACE
    low, high = _slopes(*_drive(proof, w, v, b, reach if in_box else None))
    if not _contracts(rate, metric, scales, w, leak, low, high):
        failures.append(f"the matrix inequality of the rate {rate:.12g} is not shown.")
    elif not rate >= _least_rate(metric, scales, w, leak, low, high) * (1 + proof.margin) - _AGREE:
        failures.append(f"the matrix inequality of the rate {rate:.12g} has not the margin that is claimed.")
    if in_box:
        outside = _outside(proof, w, v, b, leak, reach)
        if outside > 0:
            failures.append(f"the box is not shown to be kept: its image lies up to {outside:.3g} outside of it.")
        return failures
    # |x - c|_P <= s lies in c + A y, |y| <= 1, if s^2 |y|^2 <= |A y|_P^2 for all y.
    axes = proof.axes
    pulled = axes.T @ metric @ axes
    pulled = 0.5 * (pulled + pulled.T) - proof.radius**2 * np.eye(size)
    error = _gamma(2 * size) * (np.abs(axes).T @ np.abs(metric) @ np.abs(axes) + proof.radius**2 * np.eye(size))
    if not _is_positive_definite(pulled, error):
        failures.append(f"the tube of radius {proof.radius:.6g} is not shown to lie where slopes were bounded.")
    offset, room = _offset(proof, w, v, b, leak), (1 - rate) * proof.radius * (1 - 8 * _U)
    if not offset <= room:
        failures.append(f"the tube is not shown to be kept: it is left by {offset:.6g}, room is {room:.6g}.")
    return failures


def _gamma(count: int) -> float:
    """Twice the factor of the error bound of sums of `count` products, with room for a few operations more."""
    return 2 * (count + 16) * _U


def _drive(
    proof: ContractionProof, w: np.ndarray, v: np.ndarray, b: np.ndarray, reach: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """W x + V u + b as middle and radius: over the box c ± reach, or over the tube of slopes."""
    middle, half = 0.5 * (proof.lower + proof.upper), 0.5 * (proof.upper - proof.lower)
    center = w @ proof.center + v @ middle + b
    size = np.abs(w) @ np.abs(proof.center) + np.abs(v) @ (np.abs(middle) + half) + np.abs(b)
    if reach is None:
        pushed = np.abs(w @ proof.axes) + _gamma(len(w)) * (np.abs(w) @ np.abs(proof.axes))
        moved = np.sqrt(np.sum(pushed**2, axis=1)) + _pushed(w, proof.generators).sum(axis=1)
    else:
        moved = np.abs(w) @ reach
    gamma = _gamma(len(w) + v.shape[1])
    return center, (moved + np.abs(v) @ half) * (1 + gamma) + 2 * gamma * size + 1e-300


def _pushed(w: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Above the entries of |W G|."""
    return np.abs(w @ columns) + _gamma(len(w)) * (np.abs(w) @ np.abs(columns))


def _slopes(center: np.ndarray, radius: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of tanh' = 1 - tanh^2, which is even and falls with the distance from zero."""
    near = np.maximum(np.abs(center) - radius, 0.0) * (1 - 2 * _U)
    far = (np.abs(center) + radius) * (1 + 2 * _U)
    steep = (1 - (np.tanh(near) * (1 - _TANH)) ** 2) * (1 + 4 * _U)
    flat = np.maximum(1 - (np.tanh(far) * (1 + _TANH)) ** 2, 0.0) * (1 - 4 * _U)
    return flat, steep


def _contracts(
    rate: float,
    metric: Float[np.ndarray, "N N"],
    scales: Float[np.ndarray, " N"],
    w: np.ndarray,
    leak: float,
    low: np.ndarray,
    high: np.ndarray,
) -> bool:
    """Whether the matrix M of `check_contraction` is shown to be positive definite."""
    keep, middle = 1 - leak, 0.5 * (low + high)
    product, mixed = scales * low * high, scales * middle
    across = keep * leak * metric + w.T * mixed
    here = (rate**2 - keep**2) * metric + (w.T * product) @ w
    whole = np.block([[0.5 * (here + here.T), -across], [-across.T, np.diag(scales) - leak**2 * metric]])
    # m^2 - r^2 is low high, of the exact m and r.
    size = np.abs(metric)
    magnitude = np.block(
        [
            [(rate**2 + keep**2) * size + (np.abs(w).T * (scales * high**2)) @ np.abs(w), keep * leak * size],
            [keep * leak * size, np.diag(scales) + leak**2 * size],
        ]
    )
    count = len(metric)
    magnitude[:count, count:] += np.abs(w).T * (scales * high)
    magnitude[count:, :count] = magnitude[:count, count:].T
    return _is_positive_definite(whole, _gamma(count) * magnitude)


def _least_rate(metric: Any, scales: Any, w: np.ndarray, leak: float, low: np.ndarray, high: np.ndarray) -> float:
    """The least rate at which M is positive definite, by a Schur complement and without rounding errors."""
    keep = 1 - leak
    across = keep * leak * metric + w.T * (scales * 0.5 * (low + high))
    square = keep**2 * metric - (w.T * (scales * low * high)) @ w
    square = square + across @ np.linalg.solve(np.diag(scales) - leak**2 * metric, across.T)
    factor = np.linalg.cholesky(metric)
    turned = np.linalg.solve(factor, np.linalg.solve(factor, 0.5 * (square + square.T)).T)
    return float(np.sqrt(max(np.linalg.eigvalsh(0.5 * (turned + turned.T))[-1], 0.0)))


def _is_positive_definite(matrix: np.ndarray, error: np.ndarray) -> bool:
    """Whether every symmetric matrix within `error` of a symmetric one is, by a Cholesky factorisation that succeeds.

    One of A - d I succeeds only where A - d I + e I is positive semidefinite, e at most 2 (n + 1) u tr A. Powers of two
    bring the diagonal near one first, without rounding.
    """
    diagonal = np.diag(matrix)
    if not (np.isfinite(matrix).all() and np.all(diagonal > 0)):
        return False
    scale = 2.0 ** -np.round(0.5 * np.log2(diagonal))
    scaled, error = scale[:, None] * matrix * scale, scale[:, None] * error * scale
    count = len(matrix)
    lost = error.sum(axis=1).max() * (1 + 4 * count * _U) + 4 * (count + 4) * _U * np.trace(scaled)
    try:
        np.linalg.cholesky(scaled - lost * np.eye(count))
    except np.linalg.LinAlgError:
        return False
    return True


def _outside(
    proof: ContractionProof, w: np.ndarray, v: np.ndarray, b: np.ndarray, leak: float, reach: np.ndarray
) -> float:
    """How far the image of the box, with its error, reaches beyond the box."""
    drive, radius = _drive(proof, w, v, b, reach)
    top, bottom = np.tanh(drive + radius), np.tanh(drive - radius)
    blur = 8 * _U * (np.abs(proof.center) + reach + 1) + leak * _TANH
    box_low, box_high = proof.center - reach, proof.center + reach
    over = (1 - leak) * box_high + leak * top + blur - box_high
    under = box_low - ((1 - leak) * box_low + leak * bottom - blur)
    # What is rounded in these differences is far below the grace by which the box was enlarged.
    return float(max(over.max(), under.max()))


def _offset(proof: ContractionProof, w: np.ndarray, v: np.ndarray, b: np.ndarray, leak: float) -> float:
    """An upper bound of |g(c + G w, u) - (c + G w')|_P: the step of c, columns less what they become, and the rest."""
    metric, center, columns = proof.metric, proof.center, proof.generators
    half = 0.5 * (proof.upper - proof.lower) * (1 + 2 * _U)
    drive = w @ center + v @ (0.5 * (proof.lower + proof.upper)) + b
    gamma = _gamma(len(center) + columns.shape[1] + len(half))
    # The middle input moves the drive by rounding errors only; |W||c| and the like bound them.
    exact = gamma * (np.abs(w) @ np.abs(center) + np.abs(v) @ np.maximum(np.abs(proof.lower), np.abs(proof.upper)))
    exact = exact + gamma * np.abs(b)
    drives = np.concatenate([v * half, w @ columns], axis=1)
    sizes = np.concatenate([np.abs(v) * half, _pushed(w, columns)], axis=1)
    slope, value, bend = _line(drive, sizes.sum(axis=1) * (1 + gamma) + exact)
    step = leak * (value - center)
    images = leak * slope[:, None] * drives
    images[:, len(half) :] += (1 - leak) * columns
    left = images - np.concatenate([columns, np.zeros((len(center), len(half)))], axis=1)
    rounded = gamma * (sizes + np.abs(left) + np.abs(images)) + gamma * np.concatenate(
        [np.abs(v) * half, np.abs(w) @ np.abs(columns) + np.abs(columns)], axis=1
    )
    blur = leak * (bend + exact) + 8 * _U * (np.abs(center) + 1) + rounded.sum(axis=1) * (1 + gamma)
    factor = np.linalg.cholesky(metric).T
    total = np.abs(step) + np.abs(left).sum(axis=1)
    around = np.abs(factor) @ (blur + gamma * total)
    fine = np.sqrt(np.sum((factor @ step) ** 2)) + np.sqrt(np.sum((factor @ left) ** 2, axis=0)).sum()
    fine = (fine + np.sqrt(np.sum(around**2))) * (1 + gamma)
    # x' P x = |F x|^2 + x' (P - F' F) x
    defect = np.abs(metric - factor.T @ factor) + gamma * (np.abs(factor).T @ np.abs(factor))
    far = (total + blur) * (1 + gamma)
    return float(min(np.sqrt(fine**2 + far @ defect @ far), np.sqrt(far @ np.abs(metric) @ far)) * (1 + gamma))


def _line(drive: np.ndarray, reach: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A slope s, a value t and how far tanh(x) is from t + s (x - drive) for |x - drive| <= reach.

    The difference is largest and least at an end or where tanh' = s, that is tanh² = 1 - s.
    """
    low, high = drive - reach, drive + reach
    secant = (np.tanh(high) - np.tanh(low)) / np.maximum(2 * reach, 1e-6)
    slope = np.clip(np.where(reach > 1e-6, secant, 1 - np.tanh(drive) ** 2), 0.0, 1.0)
    turn = np.arctanh(np.minimum(np.sqrt(1 - slope), 1 - 1e-16))
    points = np.stack([low, high, np.clip(turn, low, high), np.clip(-turn, low, high)])
    rest = np.tanh(points) - slope * (points - drive)
    # At the turning points the slope of the difference is a rounding error, and so is what their rounding does.
    rounding = 4 * _TANH + 64 * _U * (1 + np.abs(drive) + reach)
    return slope, 0.5 * (rest.max(0) + rest.min(0)), 0.5 * (rest.max(0) - rest.min(0)) + rounding
