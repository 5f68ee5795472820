"""A driven map as linear maps and uncertain gains: which slopes each of its nonlinear operations can have on a set.

Differences of two trajectories of x' = g(x, u) under one input obey

    dx' = A dx + B dw,   dy = C dx + D dw,   dw_i = s_i dy_i,   low_i <= s_i <= high_i,

where every elementwise nonlinear operation of the jaxpr gives one pair (y_i, w_i) for each entry, with a slope between
the bounds of its derivative, and everything between is linear. A product of two quantities that depend on the state
has two: d(ab) = b da + a db, evaluated by the mean value theorem along the segment. (Lur'e form; Megretski & Rantzer
1997, *System analysis via integral quadratic constraints*.)
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rnndyn._programs import compiled
from rnndyn.dynamics.proofs import interval_arithmetic as ia
from rnndyn.dynamics.proofs._duals import Dual, Trouble, dual, is_real
from rnndyn.dynamics.proofs._evaluation import evaluate_equation, only_moves
from rnndyn.dynamics.proofs._primitives import called
from rnndyn.dynamics.proofs.interval_arithmetic import Interval, point

# Linear in each real operand when all others are known exactly.
_LINEAR = frozenset(["add", "sub", "add_any", "neg", "reduce_sum", "convert_element_type"])
_BILINEAR = frozenset(["mul", "dot_general"])
# Each entry of the result is a function of the entries in its place: only these have a slope for each entry.
ELEMENTWISE = frozenset(
    "mul div add sub max min abs sign tanh logistic exp exp2 expm1 log log1p sqrt rsqrt cbrt sin cos tan asin acos "
    "atan sinh cosh asinh acosh atanh erf erfc integer_pow pow square select_n clamp".split()
)


class SectorForm(NamedTuple):
    """The uncertain linear maps of a driven map on a set of states and inputs: E = [A B], Y = [C D], and slopes.

    - `value`: encloses g(center, u) for all inputs, where the set has a centre; else over the set.
    - `into`: (N, N + m); `gains`: (m, N + m); intervals as wide as rounding. `low`, `high`: (m,).
    """

    value: Interval
    into: Interval
    gains: Interval
    low: Float[Array | np.ndarray, " m"]
    high: Float[Array | np.ndarray, " m"]


class Quantity(NamedTuple):
    """A quantity at the centre, over the set with its derivatives along the axes, and as a sum of generators."""

    at: Any
    over: Any
    form: Interval | None


def sector_form(
    g: Callable,
    center: np.ndarray,
    reach: np.ndarray,
    axes: np.ndarray | None,
    lower: np.ndarray,
    upper: np.ndarray,
    num_segments: int = 0,
) -> SectorForm:
    """The sector form of g(x, u) on c ± reach or, with axes, c + A y, for all inputs between two vectors.

    There |y_k| <= 1 for the first `num_segments` coordinates and |y| <= 1 for the others together; `reach` bounds
    |A y|. On the host.
    """
    return jax.device_get(_sector_form(g, center, reach, axes, lower, upper, num_segments))


@compiled
def _sector_form(
    g: Callable, center: Any, reach: Any, axes: Any | None, lower: Any, upper: Any, num_segments: int
) -> SectorForm:
    struct = jax.ShapeDtypeStruct
    closed = jax.make_jaxpr(g)(struct(center.shape, np.float64), struct(lower.shape, np.float64))
    size = len(center)
    inputs = Dual(Interval(jnp.asarray(lower), jnp.asarray(upper)), None)
    here = ia.ball(jnp.asarray(center), jnp.asarray(reach))
    at = Dual(here if axes is None else point(jnp.asarray(center)), None)
    tangent = point(jnp.eye(size)) if axes is None else point(jnp.asarray(axes).T)
    state = Quantity(at, Dual(here, tangent), point(jnp.eye(size)))
    walk = Walk(size, axes is not None, num_segments)
    (out,) = walk.evaluate(closed.jaxpr, closed.consts, [state, Quantity(inputs, inputs, None)])
    count = walk.count
    into = _rows(walk.padded(out.form, count)) if out.form is not None else point(jnp.zeros((size, count)))
    rows = [_rows(walk.padded(form, count)) for form in walk.taken]
    gains = Interval(
        *(jnp.concatenate([getattr(r, end) for r in rows] or [jnp.zeros((0, count))]) for end in ("lo", "hi"))
    )
    low, high = (jnp.concatenate([jnp.ravel(x) for x in ends] or [jnp.zeros(0)]) for ends in (walk.low, walk.high))
    return SectorForm(dual(out.at).value, into, gains, low, high)


class Walk:
    """The generators met so far while a jaxpr is evaluated."""

    def __init__(self, count: int, has_axes: bool, num_segments: int) -> None:
        self.count, self.has_axes, self.num_segments = count, has_axes, num_segments
        self.taken: list[Interval] = []
        self.low: list[Array] = []
        self.high: list[Array] = []
        self.trouble = Trouble()

    def evaluate(self, jaxpr: Any, consts: Sequence[Any], args: Sequence[Quantity]) -> list[Quantity]:
        env: dict[Any, Any] = dict(zip(jaxpr.constvars, (Quantity(c, c, None) for c in consts)))
        env |= dict(zip(jaxpr.invars, args))

        def read(var: Any) -> Quantity:
            if isinstance(var, jax.extend.core.Literal):
                value = jnp.asarray(var.val)
                return Quantity(value, value, None)
            return env[var]

        for eqn in jaxpr.eqns:
            operands = [read(var) for var in eqn.invars]
            body = called(eqn)
            if body is not None:
                outs = self.evaluate(body.jaxpr, body.consts, operands)
            else:
                outs = self._equation(eqn, operands)
            env.update(zip(eqn.outvars, outs))
        return [read(var) for var in jaxpr.outvars]

    def _equation(self, eqn: Any, operands: list[Quantity]) -> list[Quantity]:
        name = eqn.primitive.name
        at = evaluate_equation(eqn, [q.at for q in operands], Trouble())
        over = evaluate_equation(eqn, [q.over for q in operands], self.trouble)
        formed = [k for k, q in enumerate(operands) if q.form is not None]
        depends = [k for k, q in enumerate(operands) if isinstance(q.over, Dual) and q.over.tangent is not None]
        if not depends:
            return [Quantity(a, o, None) for a, o in zip(at, over)]
        if formed != depends:
            raise NotImplementedError(f"g: `{name}` of a decision that depends on the state: no metric is looked for.")
        if self.has_axes:
            over = [self.tightened(a, o) for a, o in zip(at, over)]
        if not all(isinstance(o, Dual) and is_real(o.value.lo) for o in over):
            return [Quantity(a, o, None) for a, o in zip(at, over)]
        others = [q.over for k, q in enumerate(operands) if k not in formed]
        exact = all(not isinstance(x, Dual) or x.value.is_exact for x in others)
        is_linear = only_moves(eqn) or name in _LINEAR
        is_linear = is_linear or (name in _BILINEAR and len(formed) == 1 and exact)
        is_linear = is_linear or (name == "div" and formed == [0] and exact)
        forms = self._propagated(eqn, operands) if is_linear else [self.gains(eqn, operands, formed, over)]
        return [Quantity(a, o, form) for a, o, form in zip(at, over, forms)]

    def _propagated(self, eqn: Any, operands: list[Quantity]) -> list[Interval | None]:
        def side(q: Quantity) -> Any:
            if q.form is None:
                return q.over
            return Dual(q.over.value, self.padded(q.form, self.count))

        return [o.tangent for o in evaluate_equation(eqn, [side(q) for q in operands], Trouble())]

    def gains(self, eqn: Any, operands: list[Quantity], formed: list[int], over: list[Any]) -> Interval:
        """New generators, one for each entry of each operand, with the slopes of the operation along it."""
        shape = over[0].value.shape
        first = self.count
        for k, slope in self.slopes(eqn, operands, formed, shape):
            self.taken.append(operands[k].form)  # pyright: ignore[reportArgumentType]
            self.low.append(slope.lo)
            self.high.append(slope.hi)
            self.count += int(np.prod(shape))
        return self.fresh(first, shape)

    def slopes(
        self, eqn: Any, operands: list[Quantity], formed: list[int], shape: tuple[int, ...]
    ) -> Iterator[tuple[int, Interval]]:
        """Which operands an elementwise operation depends on, and the bounds of its slopes along each."""
        if eqn.primitive.name not in ELEMENTWISE:
            raise NotImplementedError(
                f"g: `{eqn.primitive.name}` of the state is neither linear nor elementwise: no sector form."
            )
        same = len(eqn.invars) == 2 and eqn.invars[0] is eqn.invars[1]
        for k in formed[:1] if same else formed:
            if operands[k].over.value.shape != shape:
                raise NotImplementedError(f"g: `{eqn.primitive.name}` of the state is not elementwise: no sector form.")
            sides = [
                q.over
                if q.form is None
                else Dual(q.over.value, point(jnp.ones((1, *shape))) if j == k or same else None)
                for j, q in enumerate(operands)
            ]
            (out,) = evaluate_equation(eqn, sides, Trouble())
            yield k, out.tangent.map(lambda end: end[0])

    def fresh(self, first: int, shape: tuple[int, ...]) -> Interval:
        """The sum of the generators from the number `first` on, of each entry."""
        number = int(np.prod(shape))
        blocks = (self.count - first) // number
        rows = np.concatenate([np.zeros((first, number)), *[np.eye(number)] * blocks])
        return point(jnp.asarray(rows.reshape(self.count, *shape)))

    def tightened(self, at: Any, over: Any) -> Any:
        if not isinstance(over, Dual) or over.tangent is None or not is_real(over.value.lo):
            return over
        size, here = ia.magnitude(over.tangent), dual(at).value
        alone, ball = size[: self.num_segments], size[self.num_segments :]
        reach = jnp.sum(alone, axis=0) + jnp.sqrt(jnp.sum(ball**2, axis=0) + 1e-300)
        reach = reach * (1 + 4 * (len(size) + 8) * ia.UNIT_ROUNDOFF)
        return Dual(ia.intersect(over.value, ia.widen(here.lo - reach, here.hi + reach)), over.tangent)

    def padded(self, form: Interval | None, count: int) -> Interval:
        assert form is not None
        missing = count - form.shape[0]
        return form.map(lambda t: jnp.pad(t, [(0, missing)] + [(0, 0)] * (t.ndim - 1)))


def _rows(form: Interval) -> Interval:
    """From generators first to one row for each entry."""
    return form.map(lambda t: t.reshape(t.shape[0], -1).T)
