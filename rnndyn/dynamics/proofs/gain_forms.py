"""Derivatives over ellipsoids as one linear map and small gains in between, and the norms that follow from that.

Interval arithmetic bounds every entry of a derivative, and loses that they vary together: one number for each nonlinear
operation is all that is uncertain. Kept apart, these numbers are a diagonal matrix between two known ones.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from rnndyn._programs import compiled
from rnndyn.dynamics.proofs import interval_arithmetic as ia
from rnndyn.dynamics.proofs import verified_norms as vn
from rnndyn.dynamics.proofs._duals import Dual, dual, is_real
from rnndyn.dynamics.proofs.interval_arithmetic import Interval, point
from rnndyn.dynamics.proofs.sector_forms import Quantity, Walk
from rnndyn.dynamics.proofs.set_images import Reach, is_finite, one_ball


class GainForm(NamedTuple):
    r"""A map on K ellipsoids {c + Q y : |y| <= r}: of every state of one,

    $$DF(x)\, Q\, y = E\, (y, v), \qquad |v_i| \le d_i\, |(T y)_i|.$$

    - `into`: encloses E, (K, M, N + m), as wide as rounding; `radii`: d (K, m); `tangents`: enclose T, (K, m, N).
    - `is_known`: (K,), nothing stands against it.
    """

    into: Interval
    radii: Float[Array | np.ndarray, "K m"]
    tangents: Interval
    is_known: Bool[Array | np.ndarray, " K"]


@compiled
def gain_forms(
    f: Callable,
    centers: Float[Array | np.ndarray, "K N"],
    factors: Float[Array | np.ndarray, "K N N"],
    radii: Float[Array | np.ndarray, " K"],
) -> GainForm:
    """The gain forms of a map; `NotImplementedError` for operations that are neither linear nor elementwise.

    A nonlinear operation with slopes s, |s - m| <= d, gives m times the derivative of its operand, and (s - m) times
    that, which is a new v; T bounds the derivative of the operand itself over the ellipsoid.
    """

    def one(item: tuple[Array, Array, Array]) -> GainForm:
        center, factor, radius = item
        closed = jax.make_jaxpr(f)(jax.ShapeDtypeStruct(center.shape, center.dtype))
        reach, along = one_ball(radius), point(factor.T)
        distance = reach(along)
        over = Dual(ia.widen(center - distance, center + distance), along)
        walk = _MiddleWalk(len(center), reach)
        (out,) = walk.evaluate(closed.jaxpr, closed.consts, [Quantity(Dual(point(center), None), over, along)])
        count = walk.count
        form = point(jnp.zeros((count, *dual(out.at).value.shape))) if out.form is None else out.form
        into = walk.padded(form, count).map(lambda t: t.reshape(count, -1).T)
        whole = jnp.concatenate([jnp.ravel(d) for d in walk.radii] or [jnp.zeros(0)])
        ends = ([getattr(t, end).reshape(len(center), -1).T for t in walk.tangents] for end in ("lo", "hi"))
        tangents = Interval(*(jnp.concatenate(rows or [jnp.zeros((0, len(center)))]) for rows in ends))
        known = is_finite(into) & is_finite(tangents) & jnp.isfinite(whole).all()
        known &= ~walk.trouble.any_jump() & ~walk.trouble.any_undefined()
        return GainForm(into, whole, tangents, known)

    return jax.lax.map(one, tuple(jnp.asarray(a) for a in (centers, factors, radii)))


@np.errstate(all="ignore")
def gain_norms(
    form: GainForm, inverses: Interval, num_reweighted: int
) -> tuple[Float[np.ndarray, " K"], Float[np.ndarray, "K m"]]:
    r"""Upper bounds of |Q'⁻¹ DF(x) Q| over each ellipsoid, infinite where nothing is known, and Lambda; on the host.

    With A and B the two parts of Q'⁻¹ E, and C the middle of d T, of which the rest is at most e in every row,

    $$|A y + B v|^2 \le |A y|^2 + |\Lambda^{-1/2} B^T A y|^2 + (1 + |B \Lambda^{-1/2}|^2)\, |\Lambda^{1/2} C y|^2$$

    for every positive diagonal Lambda and |v_i| <= |(C y)_i|, and what e allows v besides adds at most | |B| e |.
    """
    out, multipliers = np.full(len(form.radii), np.inf), np.zeros(np.shape(form.radii))
    for k in np.flatnonzero(np.asarray(form.is_known)):
        inverse, into = inverses.map(lambda end, k=k: end[k]), form.into.map(lambda end, k=k: np.asarray(end[k]))
        tangents = form.tangents.map(lambda end, k=k: np.asarray(end[k]))
        out[k], multipliers[k] = _norm(inverse, into, np.asarray(form.radii[k]), tangents, num_reweighted)
    return out, multipliers


# --- helpers


class _MiddleWalk(Walk):
    """Forms with the middle slope of every operation taken along; what is left of the slopes is a generator."""

    def __init__(self, count: int, reach: Reach) -> None:
        super().__init__(count, True, 0)
        self._reach = reach
        self.radii: list[Array] = []
        self.tangents: list[Interval] = []

    def gains(self, eqn: Any, operands: list[Quantity], formed: list[int], over: list[Any]) -> Interval:
        shape = over[0].value.shape
        first, terms = self.count, []
        for k, slope in self.slopes(eqn, operands, formed, shape):
            middle = ia.midpoint(slope)
            self.radii.append(ia.radius_about(slope, middle))
            self.tangents.append(operands[k].over.tangent)
            form = operands[k].form
            assert form is not None
            terms.append(ia.mul(point(middle), form))
            self.count += int(np.prod(shape))
        total = self.fresh(first, shape)
        for term in terms:
            total = ia.add(total, self.padded(term, self.count))
        return total

    def tightened(self, at: Any, over: Any) -> Any:
        if not isinstance(over, Dual) or over.tangent is None or not is_real(over.value.lo):
            return over
        distance, here = self._reach(over.tangent), dual(at).value
        return Dual(ia.intersect(over.value, ia.widen(here.lo - distance, here.hi + distance)), over.tangent)


def _norm(
    inverse: Interval, into: Interval, radii: np.ndarray, tangents: Interval, num_reweighted: int
) -> tuple[float, np.ndarray]:
    size = tangents.shape[1]
    turned = ia.matmul(inverse, into)
    a, b = turned.map(lambda end: end[:, :size]), turned.map(lambda end: end[:, size:])
    middle = np.asarray(ia.midpoint(tangents))
    used = ia.mul(point(radii[:, None]), point(middle)).map(np.asarray)
    left = vn.round_up(radii * vn.vector_norm_bound(point(ia.radius_about(tangents, middle))))
    pulled = ia.matmul(b.map(np.transpose), a)
    middles = [np.asarray(ia.midpoint(x)) for x in (a, b, pulled, used)]
    weights = _weights(middles[0], middles[1], middles[2], middles[3], num_reweighted)
    root = point(np.sqrt(weights)[:, None])
    largest = vn.spectral_norm_bound(ia.div(b, root.map(np.transpose)).map(np.asarray))
    factor = vn.round_up(np.sqrt(vn.round_up(1 + vn.round_up(largest**2))))
    parts = [a, ia.div(pulled, root), ia.mul(ia.mul(root, point(factor)), used)]
    stack = Interval(*(np.concatenate([np.asarray(getattr(x, end)) for x in parts]) for end in ("lo", "hi")))
    rest = ia.matmul(point(ia.magnitude(b)), point(left[:, None])).hi[:, 0]
    return float(vn.round_up(vn.spectral_norm_bound(stack) + vn.vector_norm_bound(point(rest)))), weights


def _weights(a: np.ndarray, b: np.ndarray, pulled: np.ndarray, used: np.ndarray, num_reweighted: int) -> np.ndarray:
    """Lambda that makes the largest eigenvalue small: in its direction both terms are to be equal."""
    tiny = 1e-12 * (np.abs(pulled).max(initial=0.0) + np.abs(used).max(initial=0.0)) + 1e-100
    weights = (np.linalg.norm(pulled, axis=1) + tiny) / (np.linalg.norm(used, axis=1) + tiny)
    best, least, base = weights, np.inf, np.linalg.norm(a, 2) ** 2
    for _ in range(num_reweighted):
        spread = 1 + np.linalg.norm(b / np.sqrt(weights), 2) ** 2
        total = a.T @ a + (pulled.T / weights) @ pulled + spread * (used.T * weights) @ used
        if not np.isfinite(total).all():
            break
        values, vectors = np.linalg.eigh(total)
        if values[-1] < least:
            best, least = weights, values[-1]
        near = np.exp((values - values[-1]) / (0.02 * abs(values[-1] - base) + 1e-12 * values[-1]))
        directions = vectors * np.sqrt(near / near.sum())
        reached = [np.linalg.norm(x @ directions, axis=1) + tiny for x in (pulled, used)]
        weights = np.sqrt(weights * reached[0] / reached[1])
    return best
