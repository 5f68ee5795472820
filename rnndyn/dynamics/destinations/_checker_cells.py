"""One step of a vanilla (tanh), GRU or LSTM cell over balls and boxes, written from the equations of the cells."""

from typing import Any, NamedTuple

import numpy as np

from rnndyn.dynamics.destinations import _checker_intervals as iv


class Quantity(NamedTuple):
    """A quantity of K balls: at the centres (K, m), over the balls (K, m), its derivatives along y (K, m, N)."""

    center: iv.Pair
    over: iv.Pair
    slopes: iv.Pair
    radius: np.ndarray

    def part(self, start: int, stop: int) -> "Quantity":
        center, over, slopes = (tuple(end[:, start:stop] for end in pair) for pair in self[:3])
        return Quantity(center, over, slopes, self.radius)

    def narrowed(self) -> "Quantity":
        """The mean value theorem beside interval arithmetic."""
        size = np.maximum(np.abs(self.slopes[0]), np.abs(self.slopes[1]))
        count = size.shape[2]
        norm = np.sqrt((size**2).sum(axis=2) * (1 + (count + 4) * iv.U)) * (1 + 4 * iv.U) + 1e-150
        reach = norm * self.radius[:, None] * (1 + 4 * iv.U) + iv.TINY
        lo, hi = iv.down(self.center[0] - reach), iv.up(self.center[1] + reach)
        over = np.fmax(self.over[0], lo), np.fmin(self.over[1], hi)
        return Quantity(self.center, over, self.slopes, self.radius)


class CellStep:
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
        drive = iv.apply((input_weight[None], np.zeros_like(input_weight)[None]), iv.exactly(held[None]))
        self.drive = tuple(end[0] for end in iv.add(drive, iv.exactly(bias[None])))

    def over_balls(
        self, centers: np.ndarray, factors: np.ndarray, radii: np.ndarray, times: int = 1
    ) -> tuple[iv.Pair, iv.Pair]:
        """F(c), and DF Q over the balls {c + Q y : |y| <= r}, for F so many steps."""
        everything = np.full_like(centers, -np.inf), np.full_like(centers, np.inf)
        out = Quantity(iv.exactly(centers), everything, iv.exactly(factors), radii).narrowed()
        for _ in range(times):
            out = self._equations(out)
        return out.center, out.slopes

    def over_boxes(self, box: iv.Pair) -> iv.Pair:
        """F over boxes, by interval arithmetic alone: a ball of radius zero has its centre for range."""
        num, size = box[0].shape
        nothing = np.zeros((num, size, 0))
        return self._equations(Quantity(box, box, (nothing, nothing), np.zeros(num)), narrow=False).over

    def _equations(self, x: Quantity, narrow: bool = True) -> Quantity:
        fix = (lambda q: q.narrowed()) if narrow else (lambda q: q)
        size = self.size
        h = x.part(0, size)
        sums = fix(_linear(self.weight, h))
        if self.gates == 1:
            return fix(_unary(fix(_shift(sums, self.drive)), iv.tanh, iv.tanh_slope))
        drive = self.drive
        if self.gates == 3:
            assert self.bias_n is not None
            gates = fix(
                _unary(fix(_shift(sums.part(0, 2 * size), iv.cut(drive, 0, 2 * size))), iv.sigmoid, iv.sigmoid_slope)
            )
            reset, update = gates.part(0, size), gates.part(size, 2 * size)
            inner = fix(_shift(sums.part(2 * size, 3 * size), (self.bias_n, self.bias_n)))
            inner = fix(_shift(fix(_product(reset, inner)), iv.cut(drive, 2 * size, 3 * size)))
            new = fix(_unary(inner, iv.tanh, iv.tanh_slope))
            return fix(_total(new, fix(_product(update, fix(_total(h, new, -1))))))
        sums = fix(_shift(sums, drive))
        i, f, g, o = (sums.part(k * size, (k + 1) * size) for k in range(4))
        i, f, o = (fix(_unary(q, iv.sigmoid, iv.sigmoid_slope)) for q in (i, f, o))
        g = fix(_unary(g, iv.tanh, iv.tanh_slope))
        c = fix(_total(fix(_product(f, x.part(size, 2 * size))), fix(_product(i, g))))
        h = fix(_product(o, fix(_unary(c, iv.tanh, iv.tanh_slope))))
        join = lambda a, b: tuple(np.concatenate([s, t], axis=1) for s, t in zip(a, b))
        return Quantity(join(h.center, c.center), join(h.over, c.over), join(h.slopes, c.slopes), x.radius)


def _linear(weight: np.ndarray, x: Quantity) -> Quantity:
    stack = (weight[None], np.zeros_like(weight)[None])
    slopes = iv.apply_matrix(stack, x.slopes)
    return Quantity(iv.apply(stack, x.center), iv.apply(stack, x.over), slopes, x.radius)


def _shift(x: Quantity, constant: iv.Pair) -> Quantity:
    return Quantity(iv.add(x.center, constant), iv.add(x.over, constant), x.slopes, x.radius)


def _total(x: Quantity, y: Quantity, sign: int = 1) -> Quantity:
    combine = iv.add if sign > 0 else iv.sub
    return Quantity(combine(x.center, y.center), combine(x.over, y.over), combine(x.slopes, y.slopes), x.radius)


def _product(x: Quantity, y: Quantity) -> Quantity:
    column = lambda pair: tuple(end[..., None] for end in pair)
    slopes = iv.add(iv.mul(column(y.over), x.slopes), iv.mul(column(x.over), y.slopes))
    return Quantity(iv.mul(x.center, y.center), iv.mul(x.over, y.over), slopes, x.radius)


def _unary(x: Quantity, function: Any, slope: Any) -> Quantity:
    over = function(x.over)
    factor = tuple(end[..., None] for end in slope(over))
    return Quantity(function(x.center), over, iv.mul(factor, x.slopes), x.radius)
