"""One step of a vanilla (tanh), GRU or LSTM cell over balls and boxes, written from the equations of the cells."""

from typing import Any, NamedTuple

import numpy as np

from rnndyn.dynamics.destinations import _checker_intervals as iv


class Gains:
    """Slopes of nonlinear operations as m + d: every d times the derivative of the operand is a variable v of its own.

    - `count`: of y and all v; `radii`: bounds of |d|, (K, m) of each operation; `slopes`: of its operand (K, m, N).
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.radii: list[np.ndarray] = []
        self.slopes: list[iv.Pair] = []

    def taken(self, slope: iv.Pair, operand: "Quantity") -> iv.Pair:
        """The middle slope times the form of the operand, and the new variables."""
        assert operand.form is not None
        middle = iv.middle_of(slope)
        self.radii.append(iv.radius_about(slope, middle))
        self.slopes.append(operand.slopes)
        form = iv.mul(iv.exactly(middle[..., None]), operand.form)
        num, size = middle.shape
        new = np.zeros((num, size, self.count + size))
        new[:, :, self.count :] = np.eye(size)
        self.count += size
        return iv.add(_padded(form, self.count), iv.exactly(new))


def _padded(form: iv.Pair, count: int) -> iv.Pair:
    return tuple(np.pad(end, [(0, 0), (0, 0), (0, count - end.shape[2])]) for end in form)


class Quantity(NamedTuple):
    """A quantity of K balls: at the centres (K, m), over the balls (K, m), its derivatives along y (K, m, N).

    And, with `gains`, these derivatives as thin intervals along y and the variables of the gains (K, m, N + V).
    """

    center: iv.Pair
    over: iv.Pair
    slopes: iv.Pair
    radius: np.ndarray
    form: iv.Pair | None = None
    gains: "Gains | None" = None

    def part(self, start: int, stop: int) -> "Quantity":
        center, over, slopes = (tuple(end[:, start:stop] for end in pair) for pair in self[:3])
        form = None if self.form is None else tuple(end[:, start:stop] for end in self.form)
        return Quantity(center, over, slopes, self.radius, form, self.gains)

    def narrowed(self) -> "Quantity":
        """The mean value theorem beside interval arithmetic."""
        size = np.maximum(np.abs(self.slopes[0]), np.abs(self.slopes[1]))
        count = size.shape[2]
        norm = np.sqrt((size**2).sum(axis=2) * (1 + (count + 4) * iv.U)) * (1 + 4 * iv.U) + 1e-150
        reach = norm * self.radius[:, None] * (1 + 4 * iv.U) + iv.TINY
        lo, hi = iv.down(self.center[0] - reach), iv.up(self.center[1] + reach)
        over = np.fmax(self.over[0], lo), np.fmin(self.over[1], hi)
        return self._replace(over=over)


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
            out = self.equations(out)
        return out.center, out.slopes

    def gains_over_balls(
        self, centers: np.ndarray, factors: np.ndarray, radii: np.ndarray
    ) -> tuple[iv.Pair, np.ndarray, iv.Pair]:
        """DF Q y = E (y, v), |v_i| <= d_i |(T y)_i| over balls: E (K, N, N + V), d (K, V) and T (K, V, N)."""
        everything = np.full_like(centers, -np.inf), np.full_like(centers, np.inf)
        gains, exact = Gains(centers.shape[1]), iv.exactly(factors)
        out = self.equations(Quantity(iv.exactly(centers), everything, exact, radii, exact, gains).narrowed())
        assert out.form is not None
        slopes = tuple(np.concatenate([pair[end] for pair in gains.slopes], axis=1) for end in (0, 1))
        return _padded(out.form, gains.count), np.concatenate(gains.radii, axis=1), slopes

    def over_boxes(self, box: iv.Pair) -> iv.Pair:
        """F over boxes, by interval arithmetic alone: a ball of radius zero has its centre for range."""
        num, size = box[0].shape
        nothing = np.zeros((num, size, 0))
        return self.equations(Quantity(box, box, (nothing, nothing), np.zeros(num)), narrow=False).over

    def equations(self, x: Quantity, narrow: bool = True, given: Quantity | None = None) -> Quantity:
        """The new state; with sums `given`, as if the weighted sums of the state were variables of their own."""
        fix = (lambda q: q.narrowed()) if narrow else (lambda q: q)
        size = self.size
        h = x.part(0, size)
        sums = fix(_linear(self.weight, h)) if given is None else given
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
        # In the order of the cell, which is that of the multipliers in a certificate.
        sigmoid = lambda q: fix(_unary(q, iv.sigmoid, iv.sigmoid_slope))
        tanh = lambda q: fix(_unary(q, iv.tanh, iv.tanh_slope))
        kept = fix(_product(sigmoid(f), x.part(size, 2 * size)))
        c = fix(_total(kept, fix(_product(sigmoid(i), tanh(g)))))
        opened = sigmoid(o)
        h = fix(_product(opened, tanh(c)))
        join = lambda a, b: tuple(np.concatenate([s, t], axis=1) for s, t in zip(a, b))
        form = None
        if h.form is not None and c.form is not None and x.gains is not None:
            form = join(_padded(h.form, x.gains.count), _padded(c.form, x.gains.count))
        parts = join(h.center, c.center), join(h.over, c.over), join(h.slopes, c.slopes)
        return Quantity(*parts, x.radius, form, x.gains)


def _linear(weight: np.ndarray, x: Quantity) -> Quantity:
    stack = (weight[None], np.zeros_like(weight)[None])
    slopes = iv.apply_matrix(stack, x.slopes)
    form = None if x.form is None else iv.apply_matrix(stack, x.form)
    return Quantity(iv.apply(stack, x.center), iv.apply(stack, x.over), slopes, x.radius, form, x.gains)


def _shift(x: Quantity, constant: iv.Pair) -> Quantity:
    return x._replace(center=iv.add(x.center, constant), over=iv.add(x.over, constant))


def _total(x: Quantity, y: Quantity, sign: int = 1) -> Quantity:
    combine = iv.add if sign > 0 else iv.sub
    form = None
    if x.form is not None and y.form is not None and x.gains is not None:
        form = combine(_padded(x.form, x.gains.count), _padded(y.form, x.gains.count))
    parts = combine(x.center, y.center), combine(x.over, y.over), combine(x.slopes, y.slopes)
    return Quantity(*parts, x.radius, form, x.gains)


def _product(x: Quantity, y: Quantity) -> Quantity:
    column = lambda pair: tuple(end[..., None] for end in pair)
    slopes = iv.add(iv.mul(column(y.over), x.slopes), iv.mul(column(x.over), y.slopes))
    form = None
    if x.gains is not None:
        first, second = x.gains.taken(y.over, x), x.gains.taken(x.over, y)
        form = iv.add(_padded(first, x.gains.count), second)
    return Quantity(iv.mul(x.center, y.center), iv.mul(x.over, y.over), slopes, x.radius, form, x.gains)


def _unary(x: Quantity, function: Any, slope: Any) -> Quantity:
    over = function(x.over)
    slopes = slope(over)
    factor = tuple(end[..., None] for end in slopes)
    form = None if x.gains is None else x.gains.taken(slopes, x)
    return Quantity(function(x.center), over, iv.mul(factor, x.slopes), x.radius, form, x.gains)
