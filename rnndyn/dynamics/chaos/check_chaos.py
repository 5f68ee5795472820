"""A second opinion on a proof of chaos, for tanh networks, in plain NumPy: no interval arithmetic, no JAX."""

from typing import Any

import numpy as np
from jaxtyping import Float

from rnndyn.dynamics.chaos.prove_chaos import ChaosProof
from rnndyn.dynamics.chaos.symbolic import entropy_bound, tells_paths_apart
from rnndyn.results import Result

_U = 2.0**-53
_TANH = 2.0**-48
"""Relative error granted to `numpy.tanh`: 32 units in the last place."""
_FAR_ABOVE_ROUNDING = 1e-11


class ChaosCheck(Result):
    """What `check_chaos` found: whether the certificate is `accepted`, and the inequalities that fail."""

    accepted: bool
    failures: tuple[str, ...]

    def table(self) -> str:
        return "ChaosCheck: accepted" if self.accepted else "ChaosCheck: refused\n  " + "\n  ".join(self.failures)


def check_chaos(proof: ChaosProof, weight: Any, bias: Any, leak: float = 1.0) -> ChaosCheck:
    r"""Check a proof of chaos of the network $x' = (1 - a) x + a \tanh(W x + b)$ again, independently.

    Every covering relation, the separation of paths and the bound of the entropy are evaluated anew from the numbers
    that the certificate holds, with a-priori bounds of the rounding errors of matrix products
    (|fl(AB) - AB| <= n u |A| |B|, Higham 2002), and compared with what is claimed.

    **Arguments:**

    - `proof`: from `prove_chaos`.
    - `weight`, `bias`, `leak`: W (N, N), b (N,), a. A closed loop over a readout has W + W_in W_out, b + W_in c: exact
      only up to the rounding of that product, which moves no bound by as much as the slack of the claims.

    **Returns:** a `ChaosCheck` with `accepted` and, where it is not, the inequalities that fail.

    **Raises:** `ValueError` for a proof of nothing, or weights of another size.
    """
    if not proof.proved:
        raise ValueError("proof: it proves nothing, so there is nothing to check.")
    w, b = np.asarray(weight, float), np.asarray(bias, float)
    size = proof.centers.shape[1]
    if w.shape != (size, size) or b.shape != (size,):
        raise ValueError(f"weight, bias: expected ({size}, {size}) and ({size},), got {w.shape} and {b.shape}.")
    failures = []
    for k, (i, j) in enumerate(proof.edges):
        expansion, contraction = _relation(proof, int(i), int(j), w, b, float(leak))
        for name, claimed, found, worse in (
            ("expansion", proof.expansions[k], expansion, proof.expansions[k] > expansion),
            ("contraction", proof.contractions[k], contraction, proof.contractions[k] < contraction),
        ):
            if worse or not np.isfinite(found):
                failures.append(f"set {i} to {j}: the claimed {name} {claimed:.12g} is not shown, only {found:.12g}.")
        if not (proof.expansions[k] > 1 and proof.contractions[k] < 1):
            failures.append(f"set {i} to {j}: what is claimed is no covering relation.")
    if not tells_paths_apart(proof.edges, _overlaps(proof)):
        failures.append("paths of the graph are not told apart by disjoint sets.")
    bound = entropy_bound(proof.edges, len(proof.centers))
    if proof.entropy_bound > bound + _FAR_ABOVE_ROUNDING:
        failures.append(f"the claimed entropy {proof.entropy_bound:.12g} is above that of the graph, {bound:.12g}.")
    return ChaosCheck(not failures, tuple(failures))


# --- helpers: an enclosure is a pair (centre, radius)


def _product(a: np.ndarray, x: np.ndarray, x_radius: Any = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """A x for exact A and x within `x_radius`."""
    gamma = 4 * (a.shape[1] + 4) * _U
    size = np.abs(a)
    return a @ x, (size @ (gamma * np.abs(x) + x_radius)) * (1 + gamma) + 1e-290


def _norm(x: np.ndarray, axis: int | None = None) -> Any:
    return np.sqrt(np.sum(x**2, axis=axis)) * (1 + 4 * (x.size + 8) * _U)


def _spectral(x: np.ndarray) -> float:
    """Above the spectral norm: LAPACK's singular values are off by a modest multiple of n u times the largest."""
    return float(np.linalg.norm(x, 2) * (1 + 100 * (sum(x.shape) + 1) * _U)) if min(x.shape) else 0.0


def _relation(proof: ChaosProof, i: int, j: int, w: np.ndarray, b: np.ndarray, leak: float) -> tuple[float, float]:
    """The expansion and the contraction of the relation from set i to set j."""
    u, count = proof.num_unstable, int(proof.num_pieces[i])
    inverse, inverse_radius = _inverse(proof.axes[j])
    target = (proof.centers[j], inverse, inverse_radius)
    expansion, contraction = np.inf, 0.0
    width = 1.0 / count
    for k in range(count):
        place = (2 * k + 1) * width - 1 if count > 1 else 0.0
        offset, error, linear, linear_radius, rest = _image(proof, i, place, width, w, b, leak, target)
        offset = np.abs(offset) + error
        outer = _norm(offset[u:]) + _spectral(linear[u:, :u]) + _spectral(linear[u:, u:])
        contraction = max(contraction, float(outer + _norm(rest[u:]) + _norm(linear_radius[u:])))
        if u > 1:
            smallest = np.linalg.svd(linear[:u, :u], compute_uv=False)[-1] * (1 - 100 * u * _U)
            lost = _norm(offset[:u]) + _spectral(linear[:u, u:]) + _norm(rest[:u]) + _norm(linear_radius[:u])
            expansion = min(expansion, float(smallest - lost))
    if u == 1:
        sides = []
        for place in (-1.0, 1.0):
            offset, error, linear, linear_radius, rest = _image(proof, i, place, 0.0, w, b, leak, target)
            reach = _norm(linear[0, 1:]) + _norm(linear_radius[0]) + rest[0] + error[0]
            sides.append((offset[0] - reach, offset[0] + reach))
        (left_lo, left_hi), (right_lo, right_hi) = sides
        expansion = max(min(right_lo, -left_hi), min(left_lo, -right_hi))
    return float(expansion), contraction * (1 + 16 * _U)


def _inverse(axes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    approximate = np.linalg.inv(axes)
    product, radius = _product(approximate, axes)
    defect = np.abs(np.eye(len(axes)) - product) + radius
    rows = defect.sum(1) * (1 + 4 * len(axes) * _U)
    if rows.max() >= 0.5:
        return approximate, np.full_like(approximate, np.inf)
    return approximate, 2 * rows[:, None] * np.abs(approximate).max(0)[None] * (1 + 8 * _U)


def _image(proof: ChaosProof, i: int, place: float, width: float, w, b, leak: float, target):
    """Offset, linear part with its error, and remainder of a piece, in the coordinates of the target."""
    u, axes = proof.num_unstable, proof.axes[i]
    center, (goal, inverse, inverse_radius) = proof.centers[i], target
    cut = axes.copy()
    cut[:, :u] *= width
    # A piece has a rounded centre, a whole set has not.
    blur = 8 * _U * (np.abs(center) + np.abs(axes[:, :u]).sum(1)) * (width < 1)
    center = center + axes[:, 0] * place if u == 1 else center
    drive, drive_radius = _product(w, center, blur)
    drive, drive_radius = drive + b, drive_radius + 4 * _U * np.abs(drive + b)
    pushed, pushed_radius = _product(w, cut)
    size = np.abs(pushed) + pushed_radius
    reach = (_norm(size[:, :u], 1) + _norm(size[:, u:], 1)) * (1 + 4 * _U) + drive_radius
    # tanh' is even and falls with |drive|.
    near, far = np.maximum(np.abs(drive) - reach, 0.0), np.abs(drive) + reach
    steep = (1 - (np.tanh(near) * (1 - _TANH)) ** 2) * (1 + 4 * _U)
    flat = np.maximum(1 - (np.tanh(far) * (1 + _TANH)) ** 2, 0.0) * (1 - 4 * _U)
    middle, half = 0.5 * (steep + flat), 0.5 * (steep - flat) + 4 * _U
    linear = (1 - leak) * cut + leak * middle[:, None] * pushed
    spread = leak * (half[:, None] * size + middle[:, None] * pushed_radius) + 8 * _U * (np.abs(cut) + size)
    rest = _norm(spread[:, :u], 1) + _norm(spread[:, u:], 1)
    image = (1 - leak) * center + leak * np.tanh(drive)
    image_radius = blur + leak * (drive_radius * np.minimum(1.0, steep + 1e-12) + _TANH * np.abs(np.tanh(drive)))
    image_radius = image_radius + 8 * _U * (np.abs(center) + 1)
    away = image - goal
    size_b = np.abs(inverse) + inverse_radius
    gamma = 4 * (len(center) + 8) * _U
    error = size_b @ (image_radius + gamma * np.abs(away) + 2 * _U * np.abs(goal)) + inverse_radius @ np.abs(away)
    offset = inverse @ away
    turned = inverse @ linear
    turned_radius = size_b @ (gamma * np.abs(linear)) + inverse_radius @ np.abs(linear)
    rest_here = size_b @ rest
    if len(rest_here) > u:
        blur = _norm(inverse_radius[u:])
        whole = (_spectral(inverse[u:]) + blur) * _norm(rest)
        scaled = (_spectral(inverse[u:] * rest) + _norm(inverse_radius[u:] * rest)) * np.sqrt(len(rest))
        best = min(whole, scaled, _norm(rest_here[u:]))
        # Only the norm of the stable part is asked for.
        rest_here = np.concatenate([rest_here[:u], [best]])
    return offset, error, turned, turned_radius, rest_here


def _overlaps(proof: ChaosProof) -> Float[np.ndarray, "M M"]:
    """Pairs of sets that no coordinate, unstable direction or line between the centres shows to be disjoint."""
    count, u = len(proof.centers), proof.num_unstable
    found = np.ones((count, count), bool)
    rows = [np.linalg.inv(axes)[:u] for axes in proof.axes]
    for i in range(count):
        for j in range(i):
            gap = proof.centers[i] - proof.centers[j]
            functionals = np.concatenate([np.eye(len(gap)), rows[i], rows[j], gap[None]])
            gamma = 8 * (len(gap) + 4) * _U
            slack = gamma * (np.abs(functionals) @ (np.abs(proof.centers[i]) + np.abs(proof.centers[j])))
            reach = sum(
                np.sqrt(2) * (_norm(functionals @ axes, 1) + gamma * _norm(np.abs(functionals) @ np.abs(axes), 1))
                for axes in (proof.axes[i], proof.axes[j])
            )
            found[i, j] = found[j, i] = not np.any(np.abs(functionals @ gap) > reach * (1 + gamma) + slack)
    return found
