"""Derivatives of maps with one layer of linear operations: a few slopes for each unit, and matrices that stay.

A recurrent cell takes weighted sums W x of its state and goes on unit by unit. So every entry of its value depends on
few of the N states and of the sums, and DF(x) = sum_c diag(a_c(x)) M_c, where rows of the M_c are rows of the identity
and of W. The slopes a_c are all that interval arithmetic has to bound: vectors, where derivatives along all states are
matrices.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from rnndyn._programs import compiled
from rnndyn.dynamics.proofs import interval_arithmetic as ia
from rnndyn.dynamics.proofs._duals import Dual, Trouble, is_real
from rnndyn.dynamics.proofs._evaluation import SAME, evaluate_equation, only_moves
from rnndyn.dynamics.proofs._primitives import called
from rnndyn.dynamics.proofs.interval_arithmetic import Interval, point
from rnndyn.dynamics.proofs.sector_forms import ELEMENTWISE
from rnndyn.dynamics.proofs.set_images import is_finite

_MOST_COLOURS = 8
"""With more slopes for each unit than that the form saves nothing."""


class Layer(NamedTuple):
    """Of what each of the N values of a map is a function: of few of S sources, the states and weighted sums of them.

    - `matrices`: M_c, the source of colour c of every value as a row of the identity or of weights, zero where it has
        none, (C, N, N); exact.
    - `seeds`: which source has which colour, ones and zeros (C, S).
    - `lengths`: upper bounds of how much each source changes with the state, (S,), in the Euclidean norm.
    """

    matrices: Float[np.ndarray, "C N N"]
    seeds: Float[np.ndarray, "C S"]
    lengths: Float[np.ndarray, " S"]


class LayerSlopes(NamedTuple):
    """A map on K balls |x - c| <= r: F(x) - F(x') = sum_c diag(a_c) M_c (x - x') with slopes in these bounds.

    - `value`: encloses F(c), (K, N); `slopes`: enclose a, (K, C, N); `is_known`: (K,), nothing stands against it.
    """

    value: Interval
    slopes: Interval
    is_known: Bool[Array | np.ndarray, " K"]


def one_layer(f: Callable, size: int) -> Layer | None:
    """The layer of a map of (N,), or `None` where it has another form; call it in `interval_precision`.

    Which value depends on which source is read from the equations, not from numbers. Sources on which one value
    depends have different colours, so that a derivative along all sources of one colour is that along one of them.
    """
    closed = jax.make_jaxpr(f)(jax.ShapeDtypeStruct((size,), np.float64))
    walk = _Dependences(size)
    try:
        (out,) = walk.evaluate(closed.jaxpr, closed.consts, [_Dependence(np.eye(size, dtype=bool), np.eye(size))])
    except _NotOneLayer:
        return None
    if not isinstance(out, _Dependence) or out.on.shape[1:] != (size,):
        return None
    matrix = np.concatenate(walk.rows)
    on = _padded(out.on, len(matrix))
    colours = _colours(on)
    if colours.max() >= _MOST_COLOURS:
        return None
    seeds = (colours == np.arange(colours.max() + 1)[:, None]).astype(float)
    # One source of a colour for each value at most, so that these products copy rows.
    matrices = np.stack([(on * seed[:, None]).T @ matrix for seed in seeds])
    lengths = np.linalg.norm(matrix, axis=1) * (1 + (size + 8) * 4 * ia.UNIT_ROUNDOFF) + 1e-290
    return Layer(matrices, seeds, lengths)


@compiled
def layer_slopes(
    f: Callable,
    seeds: Float[Array | np.ndarray, "C S"],
    lengths: Float[Array | np.ndarray, " S"],
    centers: Float[Array | np.ndarray, "K N"],
    radii: Float[Array | np.ndarray, " K"],
) -> LayerSlopes:
    """Values at the centres of balls, and slopes over them, of a map with a `Layer`."""

    def one(center: Array, radius: Array) -> LayerSlopes:
        closed = jax.make_jaxpr(f)(jax.ShapeDtypeStruct(center.shape, center.dtype))
        walk = _Slopes(jnp.asarray(seeds), jnp.asarray(lengths) * radius * (1 + 8 * ia.UNIT_ROUNDOFF))
        (out,) = walk.evaluate(closed.jaxpr, closed.consts, [walk.source(Dual(point(center), None))])
        known = is_finite(out.at.value) & is_finite(out.over.tangent)
        known &= ~walk.trouble.any_jump() & ~walk.trouble.any_undefined()
        return LayerSlopes(out.at.value, out.over.tangent, known)

    return jax.vmap(one)(jnp.asarray(centers), jnp.asarray(radii))


# --- helpers


class _NotOneLayer(Exception):
    """The map has another form."""


class _Dependence(NamedTuple):
    """On which sources each entry depends, (S, ...); if it is a state that was moved, its derivatives, (N, ...)."""

    on: np.ndarray
    moved: np.ndarray | None


class _Quantity(NamedTuple):
    """A quantity at the centre of a ball, and over the ball with its derivatives along the sources of each colour."""

    at: Any
    over: Any


class _Walk:
    """The equations of a jaxpr one after the other; those that do not depend on the state are evaluated as they are."""

    kind: type

    def evaluate(self, jaxpr: Any, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
        env: dict[Any, Any] = {**dict(zip(jaxpr.constvars, consts)), **dict(zip(jaxpr.invars, args))}

        def read(var: Any) -> Any:
            return jnp.asarray(var.val) if isinstance(var, jax.extend.core.Literal) else env[var]

        for eqn in jaxpr.eqns:
            operands, body = [read(var) for var in eqn.invars], called(eqn)
            if body is not None:
                outs = self.evaluate(body.jaxpr, body.consts, operands)
            elif any(isinstance(x, self.kind) for x in operands):
                outs = self.equation(eqn, operands)
            else:
                outs = evaluate_equation(eqn, operands, Trouble())
            env.update(zip(eqn.outvars, outs))
        return [read(var) for var in jaxpr.outvars]

    def equation(self, eqn: Any, operands: list[Any]) -> list[Any]:
        raise NotImplementedError


class _Dependences(_Walk):
    kind = _Dependence

    def __init__(self, size: int) -> None:
        self.rows = [np.eye(size)]

    def equation(self, eqn: Any, operands: list[Any]) -> list[Any]:
        name = eqn.primitive.name
        given = [x for x in operands if isinstance(x, _Dependence)]
        if not all(jnp.issubdtype(var.aval.dtype, jnp.floating) for var in (*eqn.outvars, *_vars_of(eqn, operands))):
            raise _NotOneLayer
        if name in SAME or name == "convert_element_type":
            return given
        if only_moves(eqn):
            on = _moved(eqn, [x.on.astype(float) if isinstance(x, _Dependence) else x for x in operands], operands)
            whole = all(x.moved is not None for x in given)
            moved = [x.moved if isinstance(x, _Dependence) else x for x in operands]
            rows = _moved(eqn, moved, operands) if whole else [None] * len(on)
            return [_Dependence(a > 0, b) for a, b in zip(on, rows)]
        if name == "dot_general":
            return [self._sums(eqn, operands, given)]
        if name in ELEMENTWISE or name in ("neg", "add_any"):
            return [_united(given, eqn.outvars[0].aval.shape)]
        raise _NotOneLayer

    def _sums(self, eqn: Any, operands: list[Any], given: list[_Dependence]) -> _Dependence:
        """Weighted sums of states: new sources."""
        others = [x for x in operands if not isinstance(x, _Dependence)]
        moved = given[0].moved
        # A sum that meets a state twice would be rounded here.
        if len(others) != 1 or isinstance(others[0], Dual) or moved is None or _meets_twice(moved):
            raise _NotOneLayer
        columns = jax.vmap(lambda row: eqn.primitive.bind(*_with(operands, row), **eqn.params))(jnp.asarray(moved))
        shape = eqn.outvars[0].aval.shape
        rows = np.asarray(columns, np.float64).reshape(len(moved), -1).T
        first, number = sum(len(r) for r in self.rows), len(rows)
        self.rows.append(rows)
        on = np.concatenate([np.zeros((first, number), bool), np.eye(number, dtype=bool)])
        return _Dependence(on.reshape(-1, *shape), None)


class _Slopes(_Walk):
    kind = _Quantity

    def __init__(self, seeds: Array, reach: Array) -> None:
        self._seeds, self._reach, self._first = seeds, reach, 0
        self.trouble = Trouble()

    def source(self, at: Dual) -> _Quantity:
        """What is linear in the state and a variable of its own from here on."""
        shape, last = at.value.shape, self._first + int(np.prod(at.value.shape))
        reach = jnp.reshape(self._reach[self._first : last], shape)
        seeds = jnp.reshape(self._seeds[:, self._first : last], (-1, *shape))
        self._first = last
        return _Quantity(at, Dual(ia.widen(at.value.lo - reach, at.value.hi + reach), point(seeds)))

    def equation(self, eqn: Any, operands: list[Any]) -> list[Any]:
        at = evaluate_equation(eqn, [x.at if isinstance(x, _Quantity) else x for x in operands], Trouble())
        if eqn.primitive.name == "dot_general":
            return [self.source(at[0])]
        over = evaluate_equation(eqn, [x.over if isinstance(x, _Quantity) else x for x in operands], self.trouble)
        return [_Quantity(a, o) for a, o in zip(at, over)]


def _vars_of(eqn: Any, operands: list[Any]) -> list[Any]:
    return [var for var, x in zip(eqn.invars, operands) if isinstance(x, _Dependence)]


def _with(operands: list[Any], row: Array) -> list[Any]:
    return [row if isinstance(x, _Dependence) else x for x in operands]


def _meets_twice(moved: np.ndarray) -> bool:
    return bool((np.count_nonzero(moved.reshape(len(moved), -1), axis=1) > 1).any())


def _padded(on: np.ndarray, number: int) -> np.ndarray:
    return np.pad(on, [(0, number - len(on))] + [(0, 0)] * (on.ndim - 1))


def _united(given: list[_Dependence], shape: tuple[int, ...]) -> _Dependence:
    number = max(len(x.on) for x in given)
    on = np.zeros((number, *shape), bool)
    for x in given:
        spread = _padded(x.on, number)
        on |= spread.reshape(number, *(1,) * (len(shape) + 1 - spread.ndim), *spread.shape[1:])
    return _Dependence(on, None)


def _moved(eqn: Any, rows: list[Any], operands: list[Any]) -> list[np.ndarray]:
    """What only moves numbers, applied to a row for each source; what does not depend on the state counts as zero."""
    is_given = [isinstance(x, _Dependence) for x in operands]
    if any(isinstance(x, Dual) and not is_real(x.value.lo) for x in operands):
        raise _NotOneLayer
    number = max(len(r) for r, given in zip(rows, is_given) if given)
    plain = [x.value.lo if isinstance(x, Dual) else x for x in rows]
    arrays = [
        jnp.asarray(_padded(x, number)) if given else (jnp.zeros(x.shape) if is_real(x) else x)
        for x, given in zip(plain, is_given)
    ]

    def bind(*items: Array) -> tuple[Array, ...]:
        outs = eqn.primitive.bind(*items, **eqn.params)
        return tuple(outs) if eqn.primitive.multiple_results else (outs,)

    return [np.asarray(a) for a in jax.vmap(bind, in_axes=[0 if given else None for given in is_given])(*arrays)]


def _colours(on: np.ndarray) -> np.ndarray:
    """Different ones for any two sources that meet in a value, one source after the other."""
    meets = (on.astype(float) @ on.T.astype(float)) > 0
    colours = np.full(len(on), -1)
    for k in range(len(on)):
        taken = colours[:k][meets[k, :k]]
        colours[k] = next(c for c in range(len(on)) if c not in taken)
    return colours
