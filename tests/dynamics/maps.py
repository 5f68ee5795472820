"""Maps that many tests use. Those with a parameter to continue are all of one structure, and share compilations."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

MAX_TERMS, MAX_POWER = 20, 5
LETTERS = "xyapq"
"""The two states, |x|, and the one or two parameters."""


def _number(value):
    return value if isinstance(value, jax.Array) else np.asarray(value, float)


class Logistic(eqx.Module):
    """x -> r x (1 - x), of the dtype of x; on [0, 1] where that is given as its region."""

    r: np.ndarray = eqx.field(default=4.0, converter=_number)
    region: tuple[np.ndarray, np.ndarray] | None = None

    def __call__(self, x):
        return jnp.asarray(self.r, x.dtype) * x * (1 - x)


class Henon(eqx.Module):
    """(x, y) -> (1 - a x^2 + y, b x), of the dtype of the state."""

    a: np.ndarray = eqx.field(default=1.4, converter=_number)
    b: np.ndarray = eqx.field(default=0.3, converter=_number)

    def __call__(self, x):
        a, b = jnp.asarray(self.a, x.dtype), jnp.asarray(self.b, x.dtype)
        return jnp.stack([1 - a * x[0] ** 2 + x[1], b * x[0]])


class TestMap(eqx.Module):
    """x' = tanh((W + p G) x + b + D p) + polynomial(x, p): two units and one parameter, or two (p, q)."""

    __test__ = False
    weights: np.ndarray
    gain: np.ndarray
    bias: np.ndarray
    direction: np.ndarray
    powers: np.ndarray
    coefficients: np.ndarray

    def __call__(self, x, p):
        p = jnp.atleast_1d(p)
        drive = self.weights @ x + p[0] * (self.gain @ x) + self.bias + self.direction[:, : p.size] @ p
        letters = jnp.concatenate([x, jnp.abs(x[:1]), p, jnp.zeros(2 - p.size)])
        table = [jnp.ones_like(letters)]
        for _ in range(MAX_POWER):
            table.append(table[-1] * letters)
        table = jnp.stack(table)
        terms = 1.0
        for k in range(len(LETTERS)):
            terms = terms * table[self.powers[:, k], k]
        return jnp.tanh(drive) + self.coefficients @ terms


def tanh_network(weights, bias=0.0, *, gain=0.0, direction=0.0):
    """x' = tanh((W + p G) x + b + D p), two units."""

    def full(value, shape):
        return np.broadcast_to(np.asarray(value, float), shape).copy()

    direction = np.asarray(direction, float)
    columns = direction if direction.ndim == 2 else np.stack([full(direction, 2), np.zeros(2)], axis=1)
    return TestMap(full(weights, (2, 2)), full(gain, (2, 2)), full(bias, 2), columns, *_terms({}, {}))


def polynomial(first, second=None):
    """Each component as a dictionary of terms: `{"x": 1, "pxx": -1}` is x - p x^2; `a` stands for |x|."""
    zeros = np.zeros((2, 2))
    return TestMap(zeros, zeros, np.zeros(2), zeros, *_terms(first, second or {}))


def _terms(first, second):
    names = sorted({*first, *second})
    powers = np.zeros((MAX_TERMS, len(LETTERS)), int)
    coefficients = np.zeros((2, MAX_TERMS))
    for k, name in enumerate(names):
        powers[k] = [name.count(letter) for letter in LETTERS]
        coefficients[:, k] = first.get(name, 0.0), second.get(name, 0.0)
    return powers, coefficients


def tanh_unit(w):
    """x' = tanh(w x + p), with a second unit that stays zero."""
    return tanh_network(np.diag([w, 0.0]), direction=[1.0, 0.0])


def tanh_gain():
    """x' = tanh(p x), with a second unit that stays zero: a pitchfork at p = 1."""
    return tanh_network(0.0, gain=np.diag([1.0, 0.0]))


def two_units(weights, bias):
    """x' = tanh(W x + b + p e_1); the first entry of the bias is the parameter."""
    return tanh_network(weights, [0.0, bias[1]], direction=[1.0, 0.0])


def turned(angle, **factors):
    """Terms of R (x, y), the rotation by an angle, multiplied by sums of terms: `turned(1.0, p=1)` is p R (x, y)."""
    c, s = np.cos(angle), np.sin(angle)
    first, second = {}, {}
    for name, factor in factors.items():
        name = "" if name == "one" else name
        for out, (of_x, of_y) in ((first, (c, -s)), (second, (s, c))):
            for letter, value in (("x", of_x), ("y", of_y)):
                term = "".join(sorted(name + letter))
                out[term] = out.get(term, 0.0) + factor * value
    return first, second


def rotation(angle):
    """x' = tanh(p R x) with the rotation R by an angle."""
    c, s = np.cos(angle), np.sin(angle)
    return tanh_network(0.0, gain=[[c, -s], [s, c]])


def logistic():
    """x' = p x (1 - x), with a second state that stays zero."""
    return polynomial({"px": 1, "pxx": -1})


def henon():
    """The Hénon map x' = 1 - p x^2 + y, y' = 0.3 x."""
    return polynomial({"": 1, "pxx": -1, "y": 1}, {"x": 0.3})


class TanhLayer(eqx.Module):
    """x' = tanh((W + p G) x + b + p d) of any size."""

    weights: np.ndarray
    gain: np.ndarray
    bias: np.ndarray
    direction: np.ndarray

    def __call__(self, x, p):
        return jnp.tanh(self.weights @ x + p * (self.gain @ x) + self.bias + p * self.direction)


class FixedPointCurve:
    """All fixed points of a two-unit network over the first bias, in closed form.

    The second equation gives x_1 as a function of x_2 = tanh(s), the first then gives the bias. No Newton method and
    no continuation: bifurcations are sign changes of the trace and determinant conditions along s.
    """

    def __init__(self, weights, bias, span, num=100_001):
        self.weights, self.bias = np.asarray(weights), np.asarray(bias)
        s = np.linspace(-18, 18, num)
        inside = np.abs(self._first(s)) < 1
        parameter = np.full(num, np.nan)
        parameter[inside] = self.point(s[inside])[1]
        inside &= (parameter >= span[0]) & (parameter <= span[1])
        edges = np.diff(np.concatenate([[0], inside.astype(int), [0]]))
        ranges = zip(np.flatnonzero(edges == 1), np.flatnonzero(edges == -1), strict=True)
        self.components = [s[i:j] for i, j in ranges if j - i > 3]

    def _first(self, s):
        return (s - self.weights[1, 1] * np.tanh(s) - self.bias[1]) / self.weights[1, 0]

    def point(self, s):
        """The state and the first bias at s."""
        x1, x2 = self._first(s), np.tanh(s)
        return np.stack([x1, x2], axis=-1), np.arctanh(x1) - self.weights[0, 0] * x1 - self.weights[0, 1] * x2

    def conditions(self, s):
        """1 - tr + det, 1 + tr + det and det - 1 of the Jacobian, and its trace."""
        x, _ = self.point(s)
        slopes = 1 - x**2
        trace = slopes[..., 0] * self.weights[0, 0] + slopes[..., 1] * self.weights[1, 1]
        det = slopes[..., 0] * slopes[..., 1] * np.linalg.det(self.weights)
        return np.array([1 - trace + det, 1 + trace + det, det - 1]), trace

    def bifurcations(self, component):
        """(kind, parameter, state) of every sign change, bisected to rounding."""
        values, _ = self.conditions(component)
        found = []
        for row, kind in enumerate(("fold", "flip", "neimark-sacker")):
            for k in np.flatnonzero(values[row, :-1] * values[row, 1:] < 0):
                low, high = component[k], component[k + 1]
                for _ in range(60):
                    middle = (low + high) / 2
                    if self.conditions(middle)[0][row] * values[row, k] > 0:
                        low = middle
                    else:
                        high = middle
                if kind == "neimark-sacker" and abs(self.conditions(low)[1]) >= 2:
                    continue  # a neutral saddle
                x, p = self.point(low)
                found.append((kind, float(p), x))
        return found
