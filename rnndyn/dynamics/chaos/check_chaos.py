"""A second opinion on a proof of chaos, for tanh networks, in plain NumPy: no interval arithmetic, no JAX."""

from typing import Any

import numpy as np
from jaxtyping import Bool

from rnndyn.dynamics.chaos._second_images import Network, Piece, image_of_piece, turned_inverse
from rnndyn.dynamics.chaos.chaos_proof import ChaosProof
from rnndyn.dynamics.chaos.symbolic import entropy_bound, least_cycle_mean, tells_paths_apart
from rnndyn.dynamics.proofs.recheck import Recheck

_U = 2.0**-53
_GRACE, _SHARE_OF_MARGIN = 5e-10, 1 / 4096
"""Two evaluations without outward rounding agree to this and to this share of a margin: in sets that are very thin
errors are magnified, but those of thousands of operations mostly cancel, where the bounds of them add up."""
_FAR_ABOVE_ROUNDING = 1e-11
_Inverse = tuple[np.ndarray, np.ndarray]


class ChaosCheck(Recheck):
    """What `check_chaos` found: whether the certificate is `accepted`, and the inequalities that fail.

    **Fields:** those of `Recheck`: `accepted`, and `failures`, a sentence for each inequality that was not shown, with
    the sets between which it is claimed and both numbers.
    """


def check_chaos(proof: ChaosProof, weight: Any, bias: Any, leak: float = 1.0) -> ChaosCheck:
    r"""Check a proof of chaos of the network $x' = (1 - a) x + a \tanh(W x + b)$ again, independently.

    Every covering relation, the growth on cones, the separation of paths and the bounds of entropy and exponent are
    evaluated anew from the numbers that the certificate holds, and compared with what is claimed, twice: a claim has
    to be shown with a-priori bounds of all rounding errors (|fl(AB) - AB| <= n u |A| |B|, Higham 2002), and it has to
    be as much weaker than what the same formulas give without them as the certificate says (`margins`). The first
    makes it true, the second finds a digit that was changed.

    **Arguments:**

    - `proof`: from `prove_chaos`.
    - `weight`, `bias`, `leak`: W (N, N), b (N,), a. A closed loop over a readout has W + W_in W_out, b + W_in c: exact
      only up to the rounding of that product, so pass the numbers that the map was made of.

    **Returns:** a `ChaosCheck` with `accepted` and, where it is not, the inequalities that fail.

    **Raises:** `ValueError` for a proof of nothing, or weights of another size.

    Higham (2002), *Accuracy and stability of numerical algorithms*, chapter 3.
    """
    if not proof.proved:
        raise ValueError("proof: it proves nothing, so there is nothing to check.")
    w, b = np.asarray(weight, float), np.asarray(bias, float)
    size = proof.centers.shape[1]
    if w.shape != (size, size) or b.shape != (size,):
        raise ValueError(f"weight, bias: expected ({size}, {size}) and ({size},), got {w.shape} and {b.shape}.")
    # With a unit roundoff of zero the same formulas are evaluated without outward rounding.
    shown, plain = (_relations(proof, Network(w, b, float(leak)), unit) for unit in (_U, 0.0))
    failures = []
    for k, (i, j) in enumerate(proof.edges):
        where = f"set {i} to {j}"
        claims = [("expansion", proof.expansions[k], 1.0), ("contraction", proof.contractions[k], -1.0)]
        if proof.exponent_bound > 0:
            claims.append(("growth", proof.growths[k], 1.0))
        for c, (name, claimed, sign) in enumerate(claims):
            found, least = shown[k][c], plain[k][c] - sign * proof.margins[k, c]
            if not sign * claimed <= sign * found:
                failures.append(f"{where}: the claimed {name} {claimed:.12g} is not shown, only {found:.12g}.")
            elif not sign * claimed <= sign * least + _GRACE + _SHARE_OF_MARGIN * proof.margins[k, c]:
                failures.append(f"{where}: the claimed {name} {claimed:.12g} is not a margin off {plain[k][c]:.12g}.")
        if not (proof.expansions[k] > 1 and proof.contractions[k] < 1):
            failures.append(f"{where}: what is claimed is no covering relation.")
    if not tells_paths_apart(proof.edges, _overlaps(proof)):
        failures.append("paths of the graph are not told apart by disjoint sets.")
    bounds = [("entropy", proof.entropy_bound, entropy_bound(proof.edges, len(proof.centers)))]
    if proof.exponent_bound > 0:
        # Without a growth on every relation there is no bound.
        grows = bool(np.all(proof.growths > 0))
        logs = list(np.log(proof.growths)) if grows else []
        least = least_cycle_mean(proof.edges, logs, len(proof.centers)) if grows else 0.0
        bounds.append(("exponent", proof.exponent_bound, least))
    for name, claimed, bound in bounds:
        if not claimed <= bound + _FAR_ABOVE_ROUNDING:
            failures.append(f"the claimed {name} {claimed:.12g} is above that of the graph, {bound:.12g}.")
    return ChaosCheck(not failures, tuple(failures))


# --- helpers


def _relations(proof: ChaosProof, net: Network, unit: float) -> list[tuple[float, float, float]]:
    """Expansion, contraction and growth on the cones of every relation, rounded outward by the unit roundoff."""
    pieces: dict[int, tuple[list[Piece], list[Piece]]] = {}
    inverses: dict[int, _Inverse] = {}
    found = []
    for i, j in proof.edges:
        if i not in pieces:
            pieces[i] = _pieces(proof, int(i), net, unit)
        if j not in inverses:
            inverses[j] = turned_inverse(proof.axes[j], unit)
        found.append(_relation(proof, int(i), int(j), *pieces[i], inverses[j], unit))
    return found


def _pieces(proof: ChaosProof, i: int, net: Network, unit: float) -> tuple[list[Piece], list[Piece]]:
    """The images of the pieces of a set and, with one unstable direction, of its two faces."""
    u, count = proof.num_unstable, int(proof.num_pieces[i])
    places = [(2 * k + 1) / count - 1 if count > 1 else 0.0 for k in range(count)]

    def image(place: float, width: float) -> Piece:
        return image_of_piece(proof.centers[i], proof.axes[i], u, place, width, net, unit)

    return [image(place, 1.0 / count) for place in places], [image(p, 0.0) for p in (-1.0, 1.0)] if u == 1 else []


def _relation(
    proof: ChaosProof,
    i: int,
    j: int,
    pieces: list[Piece],
    faces: list[Piece],
    inverse: tuple[np.ndarray, np.ndarray],
    unit: float,
) -> tuple[float, float, float]:
    goal, slope = proof.centers[j], proof.cones
    over = [piece.bounds(goal, *inverse, unit) for piece in pieces]
    expansion = min(one.expansion for one in over)
    if faces:
        (left_lo, left_hi), (right_lo, right_hi) = (face.along(goal, *inverse, unit) for face in faces)
        expansion = max(min(right_lo, -left_hi), min(left_lo, -right_hi))
    contraction = max(one.contraction for one in over)
    growth, shear = min(one.growth for one in over), max(one.shear for one in over)
    mixing, squeeze = max(one.mixing for one in over), max(one.squeeze for one in over)
    on_cone = growth - mixing * slope[i] - 1e-12 * (growth + mixing * slope[i])
    keeps = shear + squeeze * slope[i] <= slope[j] * (growth - mixing * slope[i])
    return float(expansion), float(contraction), float(on_cone) if keeps else -np.inf


def _overlaps(proof: ChaosProof) -> Bool[np.ndarray, "M M"]:
    """Pairs of sets that no coordinate, unstable direction or line between the centres shows to be disjoint."""
    count, u = len(proof.centers), proof.num_unstable
    found = np.ones((count, count), bool)
    rows = [np.linalg.inv(axes)[:u] for axes in proof.axes]

    def norm(x: np.ndarray) -> np.ndarray:
        return np.sqrt(np.sum(x**2, axis=1)) * (1 + 4 * (x.size + 8) * _U)

    for i in range(count):
        for j in range(i):
            gap = proof.centers[i] - proof.centers[j]
            functionals = np.concatenate([np.eye(len(gap)), rows[i], rows[j], gap[None]])
            gamma = 8 * (len(gap) + 4) * _U
            slack = gamma * (np.abs(functionals) @ (np.abs(proof.centers[i]) + np.abs(proof.centers[j])))
            reach = sum(
                np.sqrt(2) * (norm(functionals @ axes) + gamma * norm(np.abs(functionals) @ np.abs(axes)))
                for axes in (proof.axes[i], proof.axes[j])
            )
            found[i, j] = found[j, i] = not np.any(np.abs(functionals @ gap) > reach * (1 + gamma) + slack)
    return found
