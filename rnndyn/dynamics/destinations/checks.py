"""A second opinion on certificates of basins and transitions: plain NumPy, written from the equations of the cells.

Nothing is shared with the proofs but the theorem: no jaxpr, no interval rules, no norms of theirs. Every operation is
pushed outward by `numpy.nextafter`, sums by their a-priori error bound.
"""

from typing import Any, NamedTuple

import numpy as np

from rnndyn.dynamics.destinations.certified_basins import CertifiedBasins
from rnndyn.dynamics.destinations.transitions import CertifiedTransitions
from rnndyn.dynamics.destinations.trapping_balls import TrappingBalls
from rnndyn.dynamics.proofs.recheck import Recheck

_U = 2.0**-53
_LIBRARY = 32 * _U
"""Relative error allowed to NumPy's exp and tanh, of which a few u are measured."""

_TINY = 1e-290


def check_basins(basins: CertifiedBasins, cell: Any, input: Any = None) -> Recheck:
    """Check a certificate of `certify_basins` again, with a program that shares nothing with the proof.

    **Arguments:**

    - `basins`: the certificate.
    - `cell`: the vanilla (tanh), GRU (reset after the product) or LSTM cell that it is about, or anything with its
        `weight_ih`, `weight_hh`, `bias` and `bias_n`.
    - `input`: the input held, (I,); zero by default.

    **Returns:** a `Recheck`. Claims that are true may be refused where they were proved with less to spare than
    rounding takes here; false ones are not accepted.

    **Raises:** `ValueError` for another cell.

    The trapping inequalities are evaluated as they are claimed; each labelled state is followed for the claimed number
    of steps, as a box and where that is too wide as an ellipsoid, and must then lie in the claimed ball.
    """
    with np.errstate(all="ignore"):
        step = _Step(cell, input)
        reason = _balls_fail(basins.balls, step)
        if reason:
            return Recheck(False, (reason,))
        rows = np.flatnonzero(basins.labels >= 0)
        entered = basins.entered[rows]
        known = (entered >= 0) & (entered < len(basins.balls.radii))
        entered = np.where(known, entered, 0)
        known &= (basins.balls.owners[entered] == basins.labels[rows]) & (basins.balls.radii[entered] > 0)
        if not known.all():
            k = rows[np.argmin(known)]
            return Recheck(
                False, (f"state {k}: label {basins.labels[k]} is not the memory of the ball it is to enter.",)
            )
        inside = _states_arrive(step, basins.states[rows], basins.steps[rows], entered, basins.balls)
        if not inside.all():
            k = rows[np.argmin(inside)]
            return Recheck(False, (f"state {k}: after {basins.steps[k]} steps it is not in ball {basins.entered[k]}.",))
        return Recheck(True, ())


def check_transitions(transitions: CertifiedTransitions, cell: Any) -> Recheck:
    """Check a certificate of `certify_transitions` again, with a program that shares nothing with the proof.

    **Arguments:** the certificate, and the cell as for `check_basins`.

    **Returns:** a `Recheck`. **Raises:** `ValueError` for another cell.

    Every ball is followed through every pulse as an ellipsoid; within the claimed number of steps at rest it must come
    to lie in a ball of the memory that is claimed.
    """
    with np.errstate(all="ignore"):
        balls, share = transitions.balls, transitions.share
        reach = _up(balls.offsets + _up(balls.rates * _up(balls.radii * share)))
        if not (0 < share <= 1 and np.all((reach <= _down(balls.radii * share)) | (balls.radii == 0))):
            return Recheck(False, (f"the balls of share {share} are not taken into themselves.",))
        at_rest = _Step(cell, transitions.rest)
        reason = _balls_fail(balls, at_rest)
        if reason:
            return Recheck(False, (reason,))
        for s, pulse in enumerate(transitions.inputs):
            steps = [_Step(cell, u) for u in pulse]
            claimed = transitions.labels[balls.owners, s]
            rows = np.flatnonzero(claimed >= 0)
            if not (balls.radii[rows] > 0).all():
                return Recheck(False, (f"pulse {s}: it starts from a memory without a trapping ball.",))
            sets = (balls.centers[rows], balls.factors[rows], balls.radii[rows] * share)
            for step in steps:
                sets = _advance(step, *sets)
            there = np.zeros(len(rows), bool)
            for t in range(int(transitions.steps[balls.owners[rows], s].max(initial=0)) + 1):
                for j in np.flatnonzero(balls.radii > 0):
                    meant = (claimed[rows] == balls.owners[j]) & ~there
                    meant &= t <= transitions.steps[balls.owners[rows], s]
                    if meant.any():
                        which = np.full(meant.sum(), j)
                        there[meant] = _is_inside(*_rows(sets, meant), balls, which, share)
                if there.all():
                    break
                sets = _advance(at_rest, *sets)
            if not there.all():
                k = balls.owners[rows[np.argmin(there)]]
                failure = f"pulse {s} from memory {k}: it is not seen to lead to {transitions.labels[k, s]}."
                return Recheck(False, (failure,))
        return Recheck(True, ())


# --- the claims


def _balls_fail(balls: TrappingBalls, step: "_Step") -> str:
    """The first trapping inequality that does not hold; empty where all do."""
    rows = np.flatnonzero(balls.radii > 0)
    after = balls.successors[rows]
    if not np.array_equal(balls.radii[after], balls.radii[rows]):
        return "the balls of a cycle have different radii."
    centers, factors, radii = balls.centers[rows], balls.factors[rows], balls.radii[rows]
    value, linear = step.over_balls(centers, factors, radii)
    inverse, loss = _inverse(balls.factors[after])
    offsets = _vector_norm(_apply(inverse, _sub(value, _exactly(balls.centers[after])))) / (1 - loss) * (1 + 8 * _U)
    rates = _norm(_apply_matrix(inverse, linear)) / (1 - loss) * (1 + 8 * _U)
    claimed, rate = balls.offsets[rows], balls.rates[rows]
    for i, k in enumerate(rows):
        if not (loss[i] < 1 and offsets[i] <= claimed[i]):
            return (
                f"ball {k}: |F(c) - c'| is claimed to be {claimed[i]:.6g}, and only known to be below {offsets[i]:.6g}."
            )
        if not rates[i] <= rate[i]:
            return f"ball {k}: |DF| is claimed to be {rate[i]:.12g}, and only known to be below {rates[i]:.12g}."
        if not (rate[i] < 1 and _up(claimed[i] + _up(rate[i] * radii[i])) <= radii[i]):
            return f"ball {k}: offset + rate r = {claimed[i] + rate[i] * radii[i]:.12g} exceeds r = {radii[i]:.12g}."
    return ""


def _states_arrive(
    step: "_Step", states: np.ndarray, steps: np.ndarray, entered: np.ndarray, balls: TrappingBalls
) -> np.ndarray:
    inside = np.zeros(len(states), bool)
    lo, hi = states.copy(), states.copy()
    for t in range(int(steps.max(initial=0)) + 1):
        now = np.flatnonzero(steps == t)
        if now.size:
            inside[now] = _is_box_inside((lo[now], hi[now]), balls, entered[now])
        going = steps > t
        lo[going], hi[going] = step.over_boxes((lo[going], hi[going]))
    left = np.flatnonzero(~inside)
    size = states.shape[1]
    sets = (states[left], np.broadcast_to(np.eye(size), (len(left), size, size)), np.zeros(len(left)))
    for t in range(int(steps[left].max(initial=0)) + 1):
        now = steps[left] == t
        if now.any():
            inside[left[now]] = _is_inside(*_rows(sets, now), balls, entered[left[now]], 1.0)
        if (steps[left] > t).any():
            sets = _advance(step, *sets)
    return inside


def _is_box_inside(box: "_Pair", balls: TrappingBalls, which: np.ndarray) -> np.ndarray:
    inverse, loss = _inverse(balls.factors[which])
    away = _vector_norm(_apply(inverse, _sub(box, _exactly(balls.centers[which])))) / (1 - loss) * (1 + 8 * _U)
    return (loss < 1) & (away <= balls.radii[which])


def _is_inside(
    centers: np.ndarray, factors: np.ndarray, radii: np.ndarray, balls: TrappingBalls, which: np.ndarray, share: float
) -> np.ndarray:
    inverse, loss = _inverse(balls.factors[which])
    away = _vector_norm(_apply(inverse, _sub(_exactly(centers), _exactly(balls.centers[which]))))
    size = _norm(_apply_matrix(inverse, _exactly(factors))) * radii
    return (loss < 1) & ((away + size) / (1 - loss) * (1 + 16 * _U) + _TINY <= balls.radii[which] * share)


def _rows(
    sets: tuple[np.ndarray, np.ndarray, np.ndarray], rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    centers, factors, radii = sets
    return centers[rows], factors[rows], radii[rows]


def _advance(
    step: "_Step", centers: np.ndarray, factors: np.ndarray, radii: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ellipsoids that hold the images of ellipsoids."""
    value, linear = step.over_balls(centers, factors, radii)
    middle, matrix = _middle(value), _middle(linear)
    size = centers.shape[1]
    blur = np.linalg.norm(_radius(linear, matrix), axis=2) * radii[:, None] + _radius(value, middle)
    image = matrix * radii[:, None, None]
    covariance = image @ np.swapaxes(image, 1, 2)
    box = size * blur**2 + 1e-60
    share = np.sqrt(box.sum(axis=1) / np.maximum(np.trace(covariance, axis1=1, axis2=2), 1e-30 * box.sum(axis=1)))
    fat = (1 + 1 / share)[:, None] * box + 1e-6 / size * np.trace(covariance, axis1=1, axis2=2)[:, None]
    known = np.isfinite(fat).all(axis=1) & np.isfinite(covariance).all(axis=(1, 2))
    covariance = np.where(known[:, None, None], covariance * (1 + share)[:, None, None], 0.0)
    covariance = covariance + np.where(known[:, None], fat, 1.0)[:, None, :] * np.eye(size)
    following = np.linalg.cholesky(covariance)
    inverse, loss = _inverse(following)
    away = _vector_norm(_apply(inverse, _sub(value, _exactly(middle))))
    reach = (away + _norm(_apply_matrix(inverse, linear)) * radii) / (1 - loss) * (1 + 16 * _U) + _TINY
    return np.where(known[:, None], middle, 0.0), following, np.where(known & (loss < 1), reach, np.inf)


# --- the cells


class _Number(NamedTuple):
    """A quantity of K balls: at the centres (K, m), over the balls (K, m), its derivatives along y (K, m, N)."""

    center: "_Pair"
    over: "_Pair"
    slopes: "_Pair"
    radius: np.ndarray

    def part(self, start: int, stop: int) -> "_Number":
        center, over, slopes = (tuple(end[:, start:stop] for end in pair) for pair in self[:3])
        return _Number(center, over, slopes, self.radius)

    def narrowed(self) -> "_Number":
        """The mean value theorem beside interval arithmetic."""
        size = np.maximum(np.abs(self.slopes[0]), np.abs(self.slopes[1]))
        count = size.shape[2]
        norm = np.sqrt((size**2).sum(axis=2) * (1 + (count + 4) * _U)) * (1 + 4 * _U) + 1e-150
        reach = norm * self.radius[:, None] * (1 + 4 * _U) + _TINY
        lo, hi = _down(self.center[0] - reach), _up(self.center[1] + reach)
        over = np.fmax(self.over[0], lo), np.fmin(self.over[1], hi)
        return _Number(self.center, over, self.slopes, self.radius)


class _Step:
    """One step of a cell with its input held, on intervals."""

    def __init__(self, cell: Any, input: Any) -> None:
        try:
            self.weight, input_weight, bias = (np.asarray(getattr(cell, n)) for n in ("weight_hh", "weight_ih", "bias"))
        except AttributeError as error:
            raise ValueError(f"cell: expected a vanilla, GRU or LSTM cell, got a {type(cell).__name__}.") from error
        self.weight, input_weight, bias = (np.asarray(a, np.float64) for a in (self.weight, input_weight, bias))
        rows, self.size = self.weight.shape
        self.gates = rows // self.size
        candidate = getattr(cell, "bias_n", None)
        if (
            getattr(cell, "activation", "tanh") != "tanh"
            or self.gates not in (1, 3, 4)
            or (self.gates == 3 and candidate is None)
        ):
            raise ValueError("cell: expected tanh units, a GRU with its reset after the product, or an LSTM.")
        self.bias_n = None if candidate is None else np.asarray(candidate, np.float64)
        held = np.zeros(input_weight.shape[1]) if input is None else np.asarray(input, np.float64)
        drive = _apply((input_weight[None], np.zeros_like(input_weight)[None]), _exactly(held[None]))
        self.drive = tuple(end[0] for end in _add(drive, _exactly(bias[None])))

    def over_balls(self, centers: np.ndarray, factors: np.ndarray, radii: np.ndarray) -> tuple["_Pair", "_Pair"]:
        """F(c), and DF Q over the balls {c + Q y : |y| <= r}."""
        start = _Number(
            _exactly(centers), (np.full_like(centers, -np.inf), np.full_like(centers, np.inf)), _exactly(factors), radii
        )
        out = self._equations(start.narrowed())
        return out.center, out.slopes

    def over_boxes(self, box: "_Pair") -> "_Pair":
        """F over boxes, by interval arithmetic alone: a ball of radius zero has its centre for range."""
        num, size = box[0].shape
        nothing = np.zeros((num, size, 0))
        return self._equations(_Number(box, box, (nothing, nothing), np.zeros(num)), narrow=False).over

    def _equations(self, x: _Number, narrow: bool = True) -> _Number:
        fix = (lambda q: q.narrowed()) if narrow else (lambda q: q)
        size = self.size
        h = x.part(0, size)
        sums = fix(_linear(self.weight, h))
        if self.gates == 1:
            return fix(_unary(fix(_shift(sums, self.drive)), _tanh, _tanh_slope))
        drive = self.drive
        if self.gates == 3:
            assert self.bias_n is not None
            gates = fix(_unary(fix(_shift(sums.part(0, 2 * size), _cut(drive, 0, 2 * size))), _sigmoid, _sigmoid_slope))
            reset, update = gates.part(0, size), gates.part(size, 2 * size)
            inner = fix(_shift(sums.part(2 * size, 3 * size), (self.bias_n, self.bias_n)))
            inner = fix(_shift(fix(_product(reset, inner)), _cut(drive, 2 * size, 3 * size)))
            new = fix(_unary(inner, _tanh, _tanh_slope))
            return fix(_sum(new, fix(_product(update, fix(_sum(h, new, -1))))))
        sums = fix(_shift(sums, drive))
        i, f, g, o = (sums.part(k * size, (k + 1) * size) for k in range(4))
        i, f, o = (fix(_unary(q, _sigmoid, _sigmoid_slope)) for q in (i, f, o))
        g = fix(_unary(g, _tanh, _tanh_slope))
        c = fix(_sum(fix(_product(f, x.part(size, 2 * size))), fix(_product(i, g))))
        h = fix(_product(o, fix(_unary(c, _tanh, _tanh_slope))))
        join = lambda a, b: tuple(np.concatenate([s, t], axis=1) for s, t in zip(a, b))
        return _Number(join(h.center, c.center), join(h.over, c.over), join(h.slopes, c.slopes), x.radius)


def _linear(weight: np.ndarray, x: _Number) -> _Number:
    stack = (weight[None], np.zeros_like(weight)[None])
    slopes = _apply_matrix(stack, x.slopes)
    return _Number(_apply(stack, x.center), _apply(stack, x.over), slopes, x.radius)


def _shift(x: _Number, constant: "_Pair") -> _Number:
    return _Number(_add(x.center, constant), _add(x.over, constant), x.slopes, x.radius)


def _sum(x: _Number, y: _Number, sign: int = 1) -> _Number:
    combine = _add if sign > 0 else _sub
    return _Number(combine(x.center, y.center), combine(x.over, y.over), combine(x.slopes, y.slopes), x.radius)


def _product(x: _Number, y: _Number) -> _Number:
    column = lambda pair: tuple(end[..., None] for end in pair)
    slopes = _add(_mul(column(y.over), x.slopes), _mul(column(x.over), y.slopes))
    return _Number(_mul(x.center, y.center), _mul(x.over, y.over), slopes, x.radius)


def _unary(x: _Number, function: Any, slope: Any) -> _Number:
    over = function(x.over)
    factor = tuple(end[..., None] for end in slope(over))
    return _Number(function(x.center), over, _mul(factor, x.slopes), x.radius)


# --- intervals, as pairs of arrays

_Pair = Any


def _up(x: Any) -> Any:
    return np.nextafter(x, np.inf)


def _down(x: Any) -> Any:
    return np.nextafter(x, -np.inf)


def _exactly(x: np.ndarray) -> _Pair:
    return x, x


def _cut(pair: _Pair, start: int, stop: int) -> _Pair:
    return tuple(end[start:stop] for end in pair)


def _add(x: _Pair, y: _Pair) -> _Pair:
    return _down(x[0] + y[0]), _up(x[1] + y[1])


def _sub(x: _Pair, y: _Pair) -> _Pair:
    return _down(x[0] - y[1]), _up(x[1] - y[0])


def _mul(x: _Pair, y: _Pair) -> _Pair:
    ends = [a * b for a in x for b in y]
    return _down(np.minimum.reduce(ends)), _up(np.maximum.reduce(ends))


def _library(lo: np.ndarray, hi: np.ndarray) -> _Pair:
    return _down(lo - np.abs(lo) * _LIBRARY), _up(hi + np.abs(hi) * _LIBRARY)


def _tanh(x: _Pair) -> _Pair:
    lo, hi = _library(np.tanh(x[0]), np.tanh(x[1]))
    return np.maximum(lo, -1.0), np.minimum(hi, 1.0)


def _tanh_slope(y: _Pair) -> _Pair:
    squares = np.stack([y[0] ** 2, y[1] ** 2])
    least = np.where((y[0] <= 0) & (y[1] >= 0), 0.0, _down(squares.min(axis=0)))
    return np.maximum(_down(1 - _up(squares.max(axis=0))), 0.0), np.minimum(_up(1 - least), 1.0)


def _sigmoid(x: _Pair) -> _Pair:
    small, large = _library(np.exp(-x[1]), np.exp(-x[0]))
    return np.maximum(_down(1 / _up(1 + large)), 0.0), np.minimum(_up(1 / _down(1 + small)), 1.0)


def _sigmoid_slope(y: _Pair) -> _Pair:
    low = [_down(end * _down(1 - end)) for end in y]
    high = [_up(end * _up(1 - end)) for end in y]
    peak = (y[0] <= 0.5) & (y[1] >= 0.5)
    top = np.where(peak, 0.25, np.maximum(*high))
    return np.clip(np.minimum(*low), 0.0, 0.25), np.clip(top, 0.0, 0.25)


def _middle(x: _Pair) -> np.ndarray:
    return 0.5 * x[0] + 0.5 * x[1]


def _radius(x: _Pair, middle: np.ndarray) -> np.ndarray:
    return np.maximum(_up(x[1] - middle), _up(middle - x[0]))


def _apply_matrix(a: _Pair, b: _Pair) -> _Pair:
    """The product of (matrix, error of its entries) and of an interval matrix."""
    matrix, error = a
    middle = _middle(b)
    spread = _radius(b, middle)
    count = matrix.shape[-1]
    size = np.abs(middle)
    slack = (count + 2) * _U * 1.01
    radius = np.abs(matrix) @ (spread + slack * size) + error @ (size + spread)
    radius = radius * (1 + 4 * (count + 4) * _U) + _TINY
    center = matrix @ middle
    return _down(center - radius), _up(center + radius)


def _apply(a: _Pair, x: _Pair) -> _Pair:
    return tuple(end[..., 0] for end in _apply_matrix(a, tuple(end[..., None] for end in x)))


def _vector_norm(x: _Pair) -> np.ndarray:
    size = np.maximum(np.abs(x[0]), np.abs(x[1]))
    return np.sqrt((size**2).sum(axis=-1)) * (1 + (size.shape[-1] + 4) * _U) + 1e-150


def _inverse(factors: np.ndarray) -> tuple[_Pair, np.ndarray]:
    """Approximate inverses R, taken as exact matrices, and |I - R Q|: |Q⁻¹ v| <= |R v| / (1 - |I - R Q|)."""
    approximate = np.linalg.inv(factors)
    zero = np.zeros_like(approximate)
    defect = _sub(_exactly(np.eye(factors.shape[-1])), _apply_matrix((approximate, zero), _exactly(factors)))
    loss = np.sqrt((np.maximum(np.abs(defect[0]), np.abs(defect[1])) ** 2).sum(axis=(-2, -1))) * (1 + 1e-9)
    return (approximate, zero), loss


def _norm(a: _Pair) -> np.ndarray:
    """Upper bounds of the spectral norm: s, if s² I - C'C is positive definite, plus that of the radii."""
    center = _middle(a)
    radius = _radius(a, center)
    num = center.shape[-1]
    usable = np.asarray(np.isfinite(center).all(axis=(-2, -1)) & np.isfinite(radius).all(axis=(-2, -1)))
    center = np.where(usable[:, None, None], center, 0.0)
    found = np.linalg.norm(center, 2, axis=(-2, -1)) * (1 + 2e-15 * (num + 2) ** 2)
    for k in np.flatnonzero(usable & (found > 0)):
        gram = center[k].T @ center[k]
        # The rounding of the product and of the factorisation, and s² rounded.
        slack = (4 * num * _U * np.trace(gram) + 8 * _U * found[k] ** 2) * (1 + num * _U) + 1e-280
        slack += 2 * (num + 2) * _U * num * found[k] ** 2
        try:
            np.linalg.cholesky((found[k] ** 2 - slack) * np.eye(num) - gram)
        except np.linalg.LinAlgError:
            found[k] = np.sqrt(np.trace(gram)) * (1 + 4 * num * _U)
    weights = np.ones((len(center), num, 1))
    radius = np.where(usable[:, None, None], radius, 0.0)
    for _ in range(6):
        weights = np.swapaxes(radius, 1, 2) @ (radius @ weights)
        largest = weights.max(axis=1, keepdims=True)
        weights = np.where(largest > 0, np.maximum(weights / largest, 1e-6), 1.0)
    ratios = (np.swapaxes(radius, 1, 2) @ (radius @ weights)) / weights * (1 + 8 * (num + 2) * _U) + _TINY
    return np.where(usable, (found + np.sqrt(ratios.max(axis=(1, 2)))) * (1 + 4 * _U), np.inf)
