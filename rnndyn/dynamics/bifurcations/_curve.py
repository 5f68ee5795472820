"""A curve of solutions as its nodes: traced, ended at the bounds, recognised as closed, and evaluated in between."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Complex, Float, Int
from scipy.sparse.linalg import LinearOperator

from rnndyn._programs import compiled
from rnndyn.dynamics.bifurcations._steps import (
    LEFT_BOX,
    LEFT_INTERVAL,
    RUNNING,
    STEP_TOO_SMALL,
    Limits,
    Metric,
    Trace,
    read_trace,
    trace_curve,
)
from rnndyn.dynamics.bifurcations._systems import CycleSystem, evaluate_cycle, push_around
from rnndyn.dynamics.bifurcations.verdicts import BranchVerdict
from rnndyn.dynamics.numerics.arnoldi import leading_eigenvalues
from rnndyn.dynamics.numerics.eigenvalues import orbit_product, product_eigenvalues
from rnndyn.dynamics.numerics.evidence import by_modulus

CHUNK = 64
"""Points that one call of the compiled loop returns; fewer where their monodromy matrices would fill the cache."""

PRODUCTS_EACH = 40
"""Products that Arnoldi's method takes for a multiplier, or more, where many have nearly one modulus."""

RESIDUAL = 1e-12
"""Of a multiplier and its unit vector, in units of the largest modulus: bifurcations are located from them."""

LARGEST_PRODUCT = 1e3
"""Multipliers of a cycle whose Jacobians have a larger product are found from these one by one: its rounding moves a
multiplier near the circle by 1e-16 of its size, and bifurcations are located to 1e-13."""

LARGEST_FORMED = 2048
"""Matrices of more units, above 32 MB, are not formed where the steps form none."""

_VERDICTS: dict[int, Any] = {
    RUNNING: BranchVerdict.out_of_points,
    LEFT_INTERVAL: BranchVerdict.left_interval,
    LEFT_BOX: BranchVerdict.left_box,
    STEP_TOO_SMALL: BranchVerdict.step_too_small,
}
"""What the status of a trace means where the curve ends with it."""


@dataclasses.dataclass(frozen=True)
class Node:
    """One computed point of a curve, in scaled coordinates; the tangent points along the order of the nodes."""

    zeta: np.ndarray
    tangent: np.ndarray
    residual: float
    multipliers: np.ndarray
    frame: tuple[np.ndarray, ...] = ()

    @functools.cached_property
    def counts(self) -> tuple[int, int, int]:
        """Real multipliers above 1, real ones below -1, and complex pairs outside the unit circle."""
        above, below, pairs = counts_outside(self.multipliers).tolist()
        return above, below, pairs

    def reversed(self) -> "Node":
        """The same point, passed in the other direction."""
        return dataclasses.replace(self, tangent=-self.tangent)


@dataclasses.dataclass(frozen=True)
class Curve:
    """What the nodes of one curve share. `num_shifts` is the period of the cycles: shifted points are one cycle.

    `num_multipliers` asks for the largest multipliers only, None for all.
    """

    system: Any
    metric: Metric
    limits: Limits
    num_shifts: int = 1
    num_multipliers: int | None = None

    @property
    def num_parameters(self) -> int:
        return len(self.limits.lower)

    @property
    def num_states(self) -> int:
        return len(self.limits.box_lower)

    def node(
        self, guess: np.ndarray, row: np.ndarray, frame: tuple[np.ndarray, ...] = (), *, straight: bool = False
    ) -> Node | None:
        """The point of the curve near `guess` in the plane orthogonal to `row`; None where there is none.

        With `straight` also where Newton's method did not go straight to it: more than a tenth of a unit away, or more
        than one where its second step was not half as long as the first. (Steps that halve add up to twice the first.)
        """
        trace = self._trace(frame, guess, row, 0.0, 1)
        if not trace.num_points:
            return None
        if straight:
            moved = np.max(np.abs((np.asarray(trace.zetas[0]) - guess) * self.metric.scales / self.metric.units))
            if moved > (1.0 if trace.contraction <= 0.5 else 0.1):
                return None
        return self._nodes(trace)[0]

    def _trace(
        self, frame: tuple[np.ndarray, ...], zeta: np.ndarray, tangent: np.ndarray, step: float, most: int
    ) -> Trace:
        """Up to `most` points after `zeta`, the next step, and the status; see `trace_curve`."""
        num_rows = int(np.clip(2**20 // zeta.size**2, 1, CHUNK))
        given = (self.metric, self.limits, frame, zeta, tangent, np.float64(step), np.asarray(min(most, num_rows)))
        rows, ends = trace_curve(self.system, *given, num_rows)
        return read_trace(self.system, zeta.size, frame, np.asarray(rows), np.asarray(ends))

    def _nodes(self, trace: Trace, most: int = CHUNK) -> list[Node]:
        """The points of a trace, up to `most` of them, with their multipliers."""
        fields = (trace.zetas, trace.tangents, trace.residuals, trace.monodromies)
        zetas, tangents, residuals, monodromies = (np.asarray(a)[:most] for a in fields)
        if not len(zetas):
            return []
        rows = zip(zetas, tangents, residuals.tolist(), self.multipliers(zetas, monodromies))
        return [Node(*row, tuple(np.asarray(column[i]) for column in trace.frames)) for i, row in enumerate(rows)]

    def multipliers(self, zetas: np.ndarray, monodromies: np.ndarray) -> list[np.ndarray]:
        """Of each point, by falling modulus; on the host, as not all devices have eigenvalues."""
        if monodromies.size or len(zetas) == 0:
            blurred = np.atleast_1d(_blurs(monodromies)) & (self._cycle.period > 1)
            if not blurred.any():
                return self._of_matrices(monodromies)
            return [
                self._of_factors(zeta) if is_blurred else self._of_matrices(matrix[None])[0]
                for zeta, matrix, is_blurred in zip(zetas, monodromies, blurred)
            ]
        size = self.system.num_units
        num = size if self.num_multipliers is None else self.num_multipliers
        if size <= min(PRODUCTS_EACH * num, LARGEST_FORMED):
            # Not kept, and made by one product of matrices, where Arnoldi's method would take as many of vectors.
            matrices = (np.asarray(_pushed_basis(self.system, zeta * self.metric.scales)).T for zeta in zetas)
            return [_largest_multipliers(matrix, num) for matrix in matrices]

        def operator(zeta: np.ndarray) -> LinearOperator:
            z = zeta * self.metric.scales
            matvec = lambda v: np.asarray(_push_around(self.system, z, v.ravel()))
            # __new__ takes a shape and a function; the annotations are those of __init__.
            return LinearOperator((size, size), matvec, dtype=float)  # pyright: ignore[reportCallIssue]

        return [_largest_multipliers(operator(zeta), num) for zeta in zetas]

    @property
    def _cycle(self) -> CycleSystem:
        return self.system if isinstance(self.system, CycleSystem) else self.system.cycle

    def _of_matrices(self, monodromies: np.ndarray) -> list[np.ndarray]:
        num = self.num_multipliers
        if num is None or num >= monodromies.shape[-1] - 1:
            return list(by_modulus(np.linalg.eigvals(monodromies)))
        return [_largest_multipliers(matrix, num) for matrix in monodromies]

    def _of_factors(self, zeta: np.ndarray) -> np.ndarray:
        z = zeta * self.metric.scales
        # Between the states and the parameters a defining system may have unknowns of its own.
        z = np.concatenate([z[: self.num_states], z[-self.num_parameters :]])
        values = multipliers_of(evaluate_cycle(self._cycle, z).step_jacobians)
        num = len(values) if self.num_multipliers is None else self.num_multipliers
        return values[: max(num, 1 + int(np.sum(np.abs(values) > 1)))]

    def between(self, a: Node, b: Node, fraction: float) -> Node | None:
        """The point between two neighbours, at this fraction of their chord."""
        chord = b.zeta - a.zeta
        return self.node(hermite(a, b, fraction), chord / np.linalg.norm(chord), a.frame)

    def follow(
        self, start: Node, step: float, max_points: int, first_jump: Callable[["Curve", list[Node]], int | None]
    ) -> tuple[list[Node], Any]:
        """Nodes from `start`, which is the first of them, in the direction of its tangent; and why they end.

        Where two nodes are not on one curve, as `first_jump` finds, the second is dropped and the step made shorter.
        """
        nodes = [start]
        while True:
            last, room = nodes[-1], max_points - len(nodes)
            trace = self._trace(last.frame, last.zeta, last.tangent, step, min(CHUNK, room + 1))
            step, status = float(trace.step), int(trace.status)
            first_new = len(nodes)
            # What is too many is known to be there; its multipliers, which take longest, are not asked for.
            nodes += self._nodes(trace, room)
            jump = first_jump(self, nodes[first_new - 1 :])
            if jump is not None:
                jump += first_new - 1
                step = float(np.linalg.norm(nodes[jump + 1].zeta - nodes[jump].zeta)) / 4
                nodes = nodes[: jump + 1]
                status = RUNNING if step >= self.limits.min_step else STEP_TOO_SMALL
            divided = next((k for k in range(first_new, len(nodes)) if self._divides(nodes[k - 1], nodes[k])), None)
            if divided is not None:
                return nodes[: divided + 1], BranchVerdict.period_divided
            closed = self._close(nodes, first_new)
            if closed is not None and len(closed) <= max_points:
                return closed, BranchVerdict.closed
            if trace.num_points > room and jump is None:
                return nodes, _VERDICTS[RUNNING]
            if status == LEFT_INTERVAL:
                end = self._on_bound(nodes[-2], nodes[-1])
                return nodes[:-1] + ([] if end is None else [end]), _VERDICTS[status]
            if status == LEFT_BOX:
                return nodes[:-1], _VERDICTS[status]
            if status != RUNNING:
                return nodes, _VERDICTS[status]

    def _divides(self, a: Node, b: Node) -> bool:
        """Whether the cycle runs through one of smaller period twice or more somewhere between two nodes.

        There the difference to its own shift vanishes; on the other side it has the opposite sign.
        """
        period = self.num_shifts
        for shift in range(1, period // 2 + 1):
            if period % shift == 0:
                before, after = (node.zeta - shift_points(node.zeta, shift, self.num_states, period) for node in (a, b))
                if before @ after < 0:
                    return True
        return False

    def _on_bound(self, inside: Node, outside: Node) -> Node | None:
        """The point between two nodes where a parameter takes the value of the bound that it crosses first."""
        first = None
        for j in range(-self.num_parameters, 0):
            for bound in (self.limits.lower[j], self.limits.upper[j]):
                value = bound / self.metric.scales[j]
                if (outside.zeta[j] - value) * (inside.zeta[j] - value) < 0:
                    fraction = _crossing(inside, outside, j, value)
                    if first is None or fraction < first[0]:
                        first = (fraction, j, value)
        if first is None:
            return None
        fraction, j, value = first
        guess = hermite(inside, outside, fraction)
        guess[j] = value
        row = np.zeros_like(guess)
        row[j] = 1.0
        end = self.node(guess, row, inside.frame)
        chord = np.linalg.norm(outside.zeta - inside.zeta)
        if end is None or np.linalg.norm(end.zeta - guess) > 0.5 * chord:
            return None
        # Exactly on the bound, and with the tangent in the order of the nodes.
        zeta = end.zeta.copy()
        zeta[j] = value
        forward = np.sign(end.tangent @ (outside.zeta - inside.zeta))
        return dataclasses.replace(end, zeta=zeta, tangent=forward * end.tangent)

    def _close(self, nodes: list[Node], first_new: int) -> list[Node] | None:
        """The nodes once around, with the start as the last, when the new ones pass the start again."""
        start = nodes[0]
        zetas = np.stack([node.zeta for node in nodes[first_new - 1 :]])
        chords = np.linalg.norm(np.diff(zetas, axis=0), axis=1)
        for shift in range(self.num_shifts):
            zeta, tangent = (
                shift_points(v, shift, self.num_states, self.num_shifts) for v in (start.zeta, start.tangent)
            )
            height = (zetas - zeta) @ tangent
            near = np.linalg.norm(zetas[1:] - zeta, axis=1) <= 2 * chords
            passed = (height[:-1] < 0) & (height[1:] >= 0) & near
            for k in np.flatnonzero(passed):
                a, b = nodes[first_new - 1 + k], nodes[first_new + k]
                fraction = -height[k] / (height[k + 1] - height[k])
                guess = hermite(a, b, fraction)
                guess = guess - tangent * (tangent @ (guess - zeta))
                again = self.node(guess, tangent, a.frame)
                # Two points of a curve closer than this in one plane are one; rounding is a thousand times less.
                if again is not None and np.linalg.norm(again.zeta - zeta) < 1e-8:
                    return [*nodes[: first_new + k], dataclasses.replace(start, zeta=zeta, tangent=tangent)]
        return None


def shift_points(zeta: np.ndarray, shift: int, num_states: int, period: int) -> np.ndarray:
    """The vector with the points of the cycle, its first `num_states` entries, moved on by `shift` places."""
    points = zeta[:num_states].reshape(period, -1)
    return np.concatenate([np.roll(points, -shift, axis=0).ravel(), zeta[num_states:]])


def hermite(a: Node, b: Node, fraction: Any) -> np.ndarray:
    """The cubic through two nodes with their tangents, at a fraction of the way; at many, a row for each."""
    length, s = np.linalg.norm(b.zeta - a.zeta), np.asarray(fraction)[..., None]
    return _cubic(a.zeta, b.zeta, length * a.tangent, length * b.tangent, s)


def counts_outside(multipliers: Complex[np.ndarray, "*M n"]) -> Int[np.ndarray, "*M 3"]:
    """How many are outside the unit circle: real ones above 1, real ones below -1, complex pairs; NaN counts not."""
    outside, imaginary = np.abs(multipliers) > 1, np.imag(multipliers)
    is_real, is_positive = imaginary == 0, np.real(multipliers) > 0
    kinds = (is_real & is_positive, is_real & ~is_positive, imaginary > 0)
    return np.stack([np.sum(outside & kind, axis=-1) for kind in kinds], axis=-1)


def stack_multipliers(nodes: Sequence[Node]) -> Complex[np.ndarray, "M n"]:
    """Those of all nodes as one matrix, NaN where a row has ended."""
    rows = [node.multipliers for node in nodes]
    if len(set(map(len, rows))) == 1:
        return np.stack(rows).astype(complex)
    stacked = np.full((len(rows), max(map(len, rows))), np.nan, complex)
    for k, row in enumerate(rows):
        stacked[k, : len(row)] = row
    return stacked


def multipliers_of(step_jacobians: Float[np.ndarray, "p N N"]) -> Complex[np.ndarray, " N"]:
    """Of a cycle by falling modulus, from the Jacobians along it."""
    product = orbit_product(step_jacobians)
    if len(step_jacobians) > 1 and _blurs(product):
        return by_modulus(product_eigenvalues(step_jacobians))
    return by_modulus(np.linalg.eigvals(product))


def _blurs(products: Float[np.ndarray, "*M N N"]) -> np.ndarray | np.bool_:
    """Whether rounding of a product of matrices hides eigenvalues near the unit circle."""
    return np.linalg.norm(products, axis=(-2, -1)) > LARGEST_PRODUCT


def _largest_multipliers(matrix: np.ndarray | LinearOperator, num: int) -> np.ndarray:
    """The `num` largest eigenvalues by Arnoldi's method, or more: at least one inside the unit circle is among them.

    With it, none outside is missing.
    """
    size = matrix.shape[0]
    product = lambda v: np.asarray(matrix @ v)
    growth = 1.0 if isinstance(matrix, np.ndarray) else 0.25
    while num < size - 1:
        # As many products as there are units make the matrix. The seed is fixed: a curve is the same in every run.
        found = leading_eigenvalues(product, size, num, max_products=size, seed=0, tolerance=RESIDUAL, growth=growth)
        if not np.all(found.residuals <= 10 * RESIDUAL * np.max(np.abs(found.values))):
            break
        if np.min(np.abs(found.values)) < 1:
            return by_modulus(found.values)
        num *= 2
    return by_modulus(np.linalg.eigvals(np.asarray(matrix @ np.eye(size))))


@compiled
def _pushed_basis(system: CycleSystem, z: Any) -> Any:
    return jax.vmap(lambda v: push_around(system, jnp.asarray(z), v))(jnp.eye(system.num_units))


@compiled
def _push_around(system: CycleSystem, z: Any, v: Any) -> Any:
    return push_around(system, jnp.asarray(z), jnp.asarray(v))


def _crossing(a: Node, b: Node, j: int, value: float) -> float:
    """The fraction at which entry j of the cubic between two nodes takes `value`, by bisection."""
    ends = float(a.zeta[j]), float(b.zeta[j])
    length = float(np.linalg.norm(b.zeta - a.zeta))
    slopes = length * float(a.tangent[j]), length * float(b.tangent[j])
    low, high = 0.0, 1.0
    below = ends[0] < value
    for _ in range(50):
        middle = (low + high) / 2
        if (_cubic(*ends, *slopes, middle) < value) == below:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _cubic(start: Any, end: Any, slope_before: Any, slope_after: Any, s: Any) -> Any:
    """The cubic with these values and slopes at 0 and 1."""
    return (
        (1 + 2 * s) * (1 - s) ** 2 * start
        + s**2 * (3 - 2 * s) * end
        + s * (1 - s) * ((1 - s) * slope_before - s * slope_after)
    )
