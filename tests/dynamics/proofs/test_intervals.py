"""Interval arithmetic: what it promises is that the exact result is inside. Exact results come from fractions, or from
80-bit floating point, whose own error is 2000 times below the bounds tested."""

import functools
from fractions import Fraction

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnndyn.dynamics.proofs import interval_arithmetic as ia
from rnndyn.dynamics.proofs.elementary_functions import ERFC_ERROR, LIBM_ERROR
from rnndyn.dynamics.proofs.interval_arithmetic import UNIT_ROUNDOFF, Interval, point
from rnndyn.dynamics.proofs.intervals import enclose, interval_jacobian, interval_value

pytestmark = pytest.mark.usefixtures("x64")

# Without optimisation where no accuracy is at stake: most of the time of these tests is compilation.
QUICK = {"xla_backend_optimization_level": 0}
jitted = jax.jit(enclose, static_argnums=0, compiler_options=QUICK)

needs_80_bits = pytest.mark.skipif(
    np.finfo(np.longdouble).eps > 2.0**-60, reason="this platform's long double is no better than float64"
)


def long(x):
    return np.asarray(x).astype(np.longdouble)


def random_intervals(rng, size, lowest=-4.0, highest=4.0):
    """Intervals of all widths, points included."""
    lo = rng.uniform(lowest, highest, size)
    width = 10.0 ** rng.uniform(-16, 0, size) * rng.integers(0, 2, size)
    return lo, np.minimum(lo + width, highest)


def samples(rng, lo, hi, count=8):
    """Points of each interval, its ends among them: (count + 2, size)."""
    inner = np.clip(lo + rng.uniform(size=(count, *lo.shape)) * (hi - lo), lo, hi)
    return np.concatenate([lo[None], hi[None], inner])


def one():
    return np.longdouble(1)


UNARY = {
    "tanh": (jnp.tanh, np.tanh, (-30, 30)),
    "logistic": (jax.nn.sigmoid, lambda x: one() / (one() + np.exp(-x)), (-800, 800)),
    "exp": (jnp.exp, np.exp, (-700, 700)),
    "expm1": (jnp.expm1, np.expm1, (-50, 50)),
    "log": (jnp.log, np.log, (1e-3, 9)),
    "log1p": (jnp.log1p, np.log1p, (-0.99, 9)),
    "sqrt": (jnp.sqrt, np.sqrt, (0, 9)),
    "rsqrt": (jax.lax.rsqrt, lambda x: one() / np.sqrt(x), (1e-3, 9)),
    "sin": (jnp.sin, np.sin, (-40, 40)),
    "cos": (jnp.cos, np.cos, (-40, 40)),
    "square": (jnp.square, np.square, (-4, 4)),
    "abs": (jnp.abs, np.abs, (-4, 4)),
    "relu": (jax.nn.relu, lambda x: np.maximum(x, 0), (-4, 4)),
    "softplus": (jax.nn.softplus, lambda x: np.log1p(np.exp(-np.abs(x))) + np.maximum(x, 0), (-40, 40)),
    "cube": (lambda x: x**3, lambda x: x**3, (-4, 4)),
    "fourth": (lambda x: x**4, lambda x: x**4, (-4, 4)),
    "inverse square": (lambda x: x**-2, lambda x: one() / x**2, (0.1, 4)),
    "power": (lambda x: x**2.5, lambda x: x ** np.longdouble(2.5), (0.1, 4)),
    "sign": (jnp.sign, np.sign, (-1, 1)),
    "floor": (jnp.floor, np.floor, (-4, 4)),
    "round": (jnp.round, np.round, (-4, 4)),
    "mod": (lambda x: jnp.mod(x, 1.0), lambda x: np.mod(x, 1), (-4, 4)),
    "clip": (lambda x: jnp.clip(x, -1, 1), lambda x: np.clip(x, -1, 1), (-4, 4)),
    "where": (lambda x: jnp.where(x > 1, x - 3, -x), lambda x: np.where(x > 1, x - 3, -x), (-4, 4)),
    "silu": (jax.nn.silu, lambda x: x / (one() + np.exp(-x)), (-20, 20)),
}


NUM_UNARY = 4000


@functools.cache
def unary_enclosures(name):
    """Of NUM_UNARY intervals: one program, as users get it, for three tests."""
    return jax.jit(lambda box: interval_value(UNARY[name][0], box))


@needs_80_bits
@pytest.mark.parametrize("name", UNARY)
def test_values_of_elementary_functions_are_enclosed(name):
    _, exact, (lowest, highest) = UNARY[name]
    rng = np.random.default_rng(0)
    lo, hi = random_intervals(rng, NUM_UNARY, lowest, highest)
    result = unary_enclosures(name)(Interval(jnp.asarray(lo), jnp.asarray(hi)))
    values = exact(long(samples(rng, lo, hi)))
    assert (long(result.lo) <= values).all()
    assert (values <= long(result.hi)).all()


@needs_80_bits
@pytest.mark.parametrize("name", ["tanh", "logistic", "exp", "log", "log1p", "sqrt", "sin", "cos", "fourth"])
def test_enclosures_of_elementary_functions_are_tight(name):
    _, exact, (lowest, highest) = UNARY[name]
    rng = np.random.default_rng(1)
    lo = np.resize(rng.uniform(lowest, highest, 1000), NUM_UNARY)
    hi = np.minimum(lo + 0.1, highest)
    result = unary_enclosures(name)(Interval(jnp.asarray(lo), jnp.asarray(hi)))
    result, lo, hi = result.map(lambda end: end[:1000]), lo[:1000], hi[:1000]
    values = exact(long(samples(rng, lo, hi, count=1000)))
    spare = np.maximum(values.min(0) - long(result.lo), long(result.hi) - values.max(0))
    # A thousand samples come within 0.1 / 500 of an interior extremum, which is flat: curvature * (2e-4)^2 / 2. The
    # rest is LIBM_ERROR with its rounding; log1p adds the rounding of 1 + x before a slope of up to 100.
    # The kink of abs is not flat: it is missed by the distance itself.
    flat = {"sin": 3e-6, "cos": 3e-6, "fourth": 3e-6, "abs": 2e-4}.get(name, 2e-13)
    assert (spare <= flat + 4 * LIBM_ERROR * np.abs(values).max(0)).all()


BINARY = {
    "add": (jnp.add, lambda a, b: a + b),
    "sub": (jnp.subtract, lambda a, b: a - b),
    "mul": (jnp.multiply, lambda a, b: a * b),
    "div": (jnp.divide, lambda a, b: a / b),
    "max": (jnp.maximum, max),
    "min": (jnp.minimum, min),
}


@pytest.mark.parametrize("name", BINARY)
def test_binary_operations_enclose_the_exact_rational_result(name):
    function, exact = BINARY[name]
    rng = np.random.default_rng(2)
    a, b = random_intervals(rng, 300), random_intervals(rng, 300)
    if name == "div":
        b = tuple(np.sort([np.abs(end) + 0.1 for end in b], axis=0))
    box = Interval(jnp.stack([a[0], b[0]]), jnp.stack([a[1], b[1]]))
    result = jax.jit(lambda box: interval_value(lambda x: function(x[0], x[1]), box))(box)
    left, right = samples(rng, *a, count=2), samples(rng, *b, count=2)
    for i in range(300):
        lo, hi = Fraction(float(result.lo[i])), Fraction(float(result.hi[i]))
        for x in left[:, i]:
            for y in right[:, i]:
                assert lo <= exact(Fraction(x), Fraction(y)) <= hi


@pytest.mark.parametrize("length", [1, 7, 200])
@pytest.mark.parametrize("wide", [False, True])
def test_dot_products_enclose_the_exact_rational_result(length, wide):
    """With heavy cancellation, where the rounding error is far larger than the result."""
    rng = np.random.default_rng(3)
    a = rng.normal(size=(20, length)) * 10.0 ** rng.uniform(-8, 8, (20, length))
    x = rng.normal(size=length)
    a[:, -1] = -(a[:, :-1] @ x[:-1]) / x[-1] if length > 1 else a[:, -1]
    hi = x + np.abs(x) * 1e-3 * wide
    result = jax.jit(lambda box: interval_value(lambda v: jnp.asarray(a) @ v, box))(
        Interval(jnp.array(x), jnp.array(hi))
    )
    for sample in samples(rng, x, hi, count=2):
        for i in range(20):
            exact = sum(Fraction(p) * Fraction(q) for p, q in zip(a[i], sample))
            assert Fraction(float(result.lo[i])) <= exact <= Fraction(float(result.hi[i]))
    if not wide:
        # Twice n u per product on either side, and as much again for the bound's own rounding.
        size = np.abs(a) @ np.abs(x)
        assert (result.hi - result.lo <= 8 * (length + 2) * UNIT_ROUNDOFF * size).all()


def test_products_of_interval_matrices_enclose_the_exact_rational_result():
    rng = np.random.default_rng(4)
    (a, a_hi), (b, b_hi) = random_intervals(rng, (4, 5)), random_intervals(rng, (5, 3))
    result = jax.jit(ia.matmul)(Interval(jnp.array(a), jnp.array(a_hi)), Interval(jnp.array(b), jnp.array(b_hi)))
    for left, right in zip(samples(rng, a, a_hi), samples(rng, b, b_hi)):
        for i in range(4):
            for j in range(3):
                exact = sum(Fraction(p) * Fraction(q) for p, q in zip(left[i], right[:, j]))
                assert Fraction(float(result.lo[i, j])) <= exact <= Fraction(float(result.hi[i, j]))


def test_sums_and_reductions_enclose_the_exact_rational_result():
    rng = np.random.default_rng(5)
    lo, hi = random_intervals(rng, (30, 40))
    box = Interval(jnp.array(lo), jnp.array(hi))
    total, largest, smallest = (
        jax.jit(lambda box, reduce=reduce: interval_value(lambda x: reduce(x, axis=1), box))(box)
        for reduce in (jnp.sum, jnp.max, jnp.min)
    )
    for sample in samples(rng, lo, hi, count=2):
        for i in range(30):
            exact = sum(map(Fraction, sample[i]))
            assert Fraction(float(total.lo[i])) <= exact <= Fraction(float(total.hi[i]))
        assert (largest.lo <= sample.max(1)).all()
        assert (sample.max(1) <= largest.hi).all()
        assert (smallest.lo <= sample.min(1)).all()
        assert (sample.min(1) <= smallest.hi).all()


@needs_80_bits
def test_assumed_error_of_the_mathematical_library_holds_here():
    """The assumption of every proof, measured: at most half of what is assumed."""
    rng = np.random.default_rng(6)
    any_size = np.exp(rng.uniform(-600, 6, 200_000)) * rng.choice([-1, 1], 200_000)
    x = np.concatenate([any_size, rng.uniform(-30, 30, 200_000), rng.uniform(-1, 1, 200_000)])
    arguments = {
        "tanh": x,
        "exp": np.concatenate([x, rng.uniform(-600, 700, 200_000)]),
        "expm1": x,
        "log": np.abs(x),
        "sin": np.concatenate([x, rng.uniform(-1e8, 1e8, 200_000)]),
        "cos": np.concatenate([x, rng.uniform(-1e8, 1e8, 200_000)]),
        "arctan": x,
        "arcsinh": x,
    }
    for name, at in arguments.items():
        computed = np.asarray(jax.jit(getattr(jnp, name))(jnp.asarray(at)))
        exact = getattr(np, name)(long(at))
        error = np.abs(computed - exact) / np.abs(exact)
        assert error[exact != 0].max() < LIBM_ERROR / 2, name


def erf_80(x):
    """Abramowitz & Stegun 7.1.6: a series of positive terms."""
    term = total = x
    for n in range(1, 250):
        term = term * 2 * x * x / (2 * n + 1)
        total = total + term
    return total * np.exp(-x * x) * 2 / np.sqrt(np.longdouble("3.14159265358979323846264338327950288"))


def erfc_80(x):
    """Abramowitz & Stegun 7.1.14: a continued fraction, for x > 2."""
    fraction = x
    for n in range(120, 0, -1):
        fraction = x + n / (2 * fraction)
    return np.exp(-x * x) / fraction / np.sqrt(np.longdouble("3.14159265358979323846264338327950288"))


@needs_80_bits
def test_assumed_error_of_the_error_functions_holds_here():
    rng = np.random.default_rng(7)
    small = np.exp(rng.uniform(-600, 0, 2000)) * rng.choice([-1, 1], 2000)
    near, tail = np.concatenate([rng.uniform(-6, 6, 20_000), small]), rng.uniform(2, 26, 20_000)
    for function, at, exact, bound in (
        (jax.lax.erf, near, erf_80, LIBM_ERROR),
        (jax.lax.erfc, rng.uniform(-6, 2, 20_000), lambda x: 1 - erf_80(x), ERFC_ERROR),
        (jax.lax.erfc, tail, erfc_80, ERFC_ERROR),
    ):
        values = exact(long(at))
        error = np.abs(np.asarray(jax.jit(function)(jnp.asarray(at))) - values) / np.abs(values)
        assert error.max() < bound / 2
    lo = np.sort(rng.uniform(-6, 28, 4000))
    hi = lo + 10.0 ** rng.uniform(-16, 0, 4000)
    found = interval_value(jax.lax.erfc, Interval(jnp.asarray(lo), jnp.asarray(hi)))
    for at, above in ((lo, True), (hi, False)):
        values = np.where(at > 2, erfc_80(np.maximum(long(at), 2)), 1 - erf_80(np.minimum(long(at), 2)))
        assert (values <= long(found.hi)).all() if above else (long(found.lo) <= values).all()


@pytest.mark.parametrize("name", ["add", "mul", "matmul", "total"])
def test_interpreted_and_compiled_intervals_agree(name):
    """Each encloses (the tests above); they differ by the fused operations of the compiler."""
    rng = np.random.default_rng(10)
    (a, a_hi), (b, b_hi) = random_intervals(rng, (6, 4, 5)), random_intervals(rng, (6, 5, 5))
    left, right = Interval(a, a_hi), Interval(b, b_hi)
    functions = {
        "add": lambda x, y: ia.add(x.map(lambda e: e[:, :, None]), y.map(lambda e: e[:, None])),
        "mul": lambda x, y: ia.mul(x.map(lambda e: e[:, :, None]), y.map(lambda e: e[:, None])),
        "matmul": ia.matmul,
        "total": lambda x, y: ia.total(x, (1, 2)),
    }
    function = functions[name]
    plain = function(left, right)
    assert isinstance(plain.lo, np.ndarray)
    compiled = jax.jit(function)(*jax.tree.map(jnp.asarray, (left, right)))
    for x, y in ((plain.lo, compiled.lo), (plain.hi, compiled.hi)):
        np.testing.assert_allclose(x, y, rtol=1e-14, atol=64 * UNIT_ROUNDOFF)


def test_unknown_survives_every_operation():
    """Proofs rely on NaN passing through; a backend whose maximum drops NaN would make them unsound."""
    unknown = Interval(jnp.full(NUM_UNARY, jnp.nan), jnp.full(NUM_UNARY, jnp.nan))
    for name in UNARY:
        out = unary_enclosures(name)(unknown)
        if name not in ("where", "sign"):
            assert not jnp.any(jnp.isfinite(out.lo) & jnp.isfinite(out.hi)), name
    other = point(jnp.ones(NUM_UNARY))
    operations = (ia.add, ia.sub, ia.mul, ia.div, ia.hull)
    both_ways = lambda x, y: [(operation(x, y), operation(y, x)) for operation in operations]
    on_numpy = jax.device_get((unknown, other))
    for results in (jax.jit(both_ways)(unknown, other), both_ways(*on_numpy)):
        for operation, pair in zip(operations, results):
            for out in pair:
                assert np.isnan(out.lo).all(), operation.__name__
                assert np.isnan(out.hi).all(), operation.__name__


@pytest.mark.parametrize("function", [jnp.log, jnp.sqrt, lambda x: 1 / x, lambda x: x**-1, lambda x: x**0.5])
def test_leaving_a_domain_is_unknown_and_reported(function):
    box = Interval(jnp.array([-1.0]), jnp.array([2.0]))
    found = jitted(function, box)
    assert jnp.isnan(found.value.lo).all()
    assert jnp.isnan(found.jacobian.lo).all()
    assert bool(found.undefined)
    assert not bool(jitted(function, Interval(jnp.array([1.0]), jnp.array([2.0]))).undefined)


def test_overflow_and_saturation_stay_sound():
    box = Interval(jnp.array([-1e4]), jnp.array([1e4]))
    out = interval_value(jax.nn.sigmoid, box)
    assert out.lo[0] == 0
    assert out.hi[0] == 1
    huge = interval_value(jnp.exp, Interval(jnp.array([800.0]), jnp.array([900.0])))
    assert huge.lo[0] <= 1e308
    assert huge.hi[0] == jnp.inf
    far = interval_value(jax.nn.sigmoid, Interval(jnp.array([-1000.0]), jnp.array([-900.0])))
    assert far.lo[0] == 0
    assert 0 < far.hi[0] < 1e-280


# --- Jacobians


class Gated(eqx.Module):
    """A gated unit of products, sums, slices and a concatenation: one of everything a cell does."""

    weight: jax.Array

    def __call__(self, x):
        a, b = jnp.split(self.weight @ x, 2)
        gate = jax.nn.sigmoid(a)
        new = gate * x + (1 - gate) * jnp.tanh(b)
        return jnp.concatenate([new[1:], new[:1] / (2 + jnp.cos(new[0]))]) + jnp.stack([new.sum(), x @ x, new[2] ** 3])


MAPS = {
    "gated": Gated(np.random.default_rng(7).normal(size=(6, 3))),
    "loop": lambda x: jax.lax.fori_loop(0, 3, lambda i, y: jnp.sin(y) * x[i], x),
    "scan": lambda x: jax.lax.scan(lambda c, y: (c * y + 0.1, c + y), x[0], x, reverse=True)[1],
    "indexing": lambda x: x.at[0].set(x[2] * 2)[jnp.array([2, 0, 1])] * jnp.flip(x),
    "norm": lambda x: x / (1 + jnp.sqrt(x @ x)) + jnp.linalg.norm(x),
    "softmax": lambda x: jax.nn.softmax(x) * jax.nn.gelu(x),
    "softplus": lambda x: jax.nn.softplus(x) + jnp.log1p(x**2) + jnp.expm1(x) * jnp.mean(x),
    "stopped": lambda x: jax.lax.stop_gradient(x) * x,
    "outer": lambda x: (jnp.outer(x, x) @ x) / 3.0 - x[::-1].reshape(1, 3).T[:, 0],
    "cond": lambda x: jax.lax.cond(x[0] > -100, lambda y: y**2, lambda y: y, x),
    "single": lambda x: jnp.tanh(x.astype(jnp.float32) @ jnp.eye(3, dtype=jnp.float32)).astype(jnp.float64),
}


@pytest.mark.parametrize("name", MAPS)
def test_jacobians_at_points_of_the_box_are_enclosed(name):
    f, rng = MAPS[name], np.random.default_rng(8)
    center = rng.normal(size=3)
    width = np.array([[0.05], [0.0]])
    lo, hi = center - width, center + width
    both = jax.jit(jax.vmap(lambda lo, hi: enclose(f, Interval(lo, hi))), compiler_options=QUICK)(lo, hi)
    found, tight = (jax.tree.map(lambda leaf, k=k: leaf[k], jax.device_get(both)) for k in (0, 1))
    states = samples(rng, lo[0], hi[0], count=50)
    plain = jax.jit(jax.vmap(lambda x: (f(x), jax.jacfwd(f)(x))), compiler_options=QUICK)
    values, jacobians = jax.device_get(plain(states))
    if name == "stopped":
        jacobians = 2 * states[:, None, :] * np.eye(3)  # the derivative of the function, not of its rule
    spare = 1e-6 if name == "single" else 1e-14  # the rounding of the plain evaluation
    assert (found.jacobian.lo - spare <= jacobians).all()
    assert (jacobians <= found.jacobian.hi + spare).all()
    assert (found.value.lo - spare <= values).all()
    assert (values <= found.value.hi + spare).all()
    # At a point only rounding widens the enclosure: a hundred operations of size up to ten.
    assert (tight.jacobian.hi - tight.jacobian.lo < 1e-11).all()


def test_jacobians_under_vmap_are_those_one_by_one():
    f, rng = MAPS["loop"], np.random.default_rng(9)
    lo = jnp.asarray(rng.normal(size=(5, 3)))
    together = jax.vmap(lambda a: interval_jacobian(f, Interval(a, a + 0.01)))(lo)
    for k in range(5):
        alone = interval_jacobian(f, Interval(lo[k], lo[k] + 0.01))
        np.testing.assert_allclose(together.lo[k], alone.lo, rtol=1e-13, atol=1e-14)  # another order of summation


def test_kinks_give_the_generalised_jacobian():
    box = Interval(jnp.array([-1.0]), jnp.array([2.0]))
    for f, lo, hi in [
        (jax.nn.relu, 0, 1),
        (jnp.abs, -1, 1),
        (lambda x: jnp.maximum(2 * x, -x), -1, 2),
        (lambda x: jnp.clip(x, -0.5, 0.5), 0, 1),
        (lambda x: jnp.max(jnp.stack([x[0], 3 * x[0] - 1]))[None], 1, 3),
    ]:
        slope = jitted(f, box).jacobian
        assert slope.lo[0, 0] == pytest.approx(lo, abs=1e-14)  # rounding
        assert slope.hi[0, 0] == pytest.approx(hi, abs=1e-14)
    away = jitted(jax.nn.relu, Interval(jnp.array([0.5]), jnp.array([2.0]))).jacobian
    assert away.lo[0, 0] == pytest.approx(1, abs=1e-14)


JUMPS = {
    "floor": jnp.floor,
    "round": jnp.round,
    "sign": jnp.sign,
    "mod": lambda x: jnp.mod(x + 0.5, 1.0),
    "where": lambda x: jnp.where(x > 0, x + 1, x),
    "where of constants": lambda x: jnp.where(x > 0, 1.0, 0.0) + x,
    "truth value": lambda x: (x > 0).astype(x.dtype) + x,
    "and": lambda x: jnp.where((x > 0) & (x < 9), x + 1, x),
    "cond": lambda x: jax.lax.cond(x[0] > 0, lambda y: y + 1, lambda y: y, x),
    "counted": lambda x: x + (x > 0).astype(jnp.int32).astype(x.dtype),
}


@pytest.mark.parametrize("name", JUMPS)
def test_jumps_leave_the_jacobian_unknown(name):
    across = jitted(JUMPS[name], Interval(jnp.array([-1.0]), jnp.array([1.0])))
    assert jnp.isnan(across.jacobian.lo).all()
    assert jnp.isnan(across.jacobian.hi).all()
    assert bool(across.jumps)
    assert jnp.isfinite(across.value.lo).all()
    beside = jitted(JUMPS[name], Interval(jnp.array([0.1]), jnp.array([0.2])))
    assert jnp.isfinite(beside.jacobian.lo).all()
    assert not bool(beside.jumps)


def test_derivatives_along_directions_cost_no_jacobian():
    # d/dx tanh(W x) along d is (1 - tanh(W x)^2) W d; what jumps is seen along any direction that moves it.
    rng = np.random.default_rng(0)
    weight, x, along = rng.standard_normal((3, 3)), rng.standard_normal(3), rng.standard_normal((2, 3))
    found = jitted(lambda x: jnp.tanh(weight @ x), point(jnp.asarray(x)), directions=along)
    expected = (1 - np.tanh(weight @ x) ** 2)[:, None] * (weight @ along.T)
    assert found.jacobian.lo.shape == (3, 2)
    assert np.all(found.jacobian.lo <= expected)
    assert np.all(found.jacobian.hi >= expected)
    np.testing.assert_allclose(found.jacobian.hi, found.jacobian.lo, atol=1e-13)
    assert bool(jitted(jnp.floor, Interval(jnp.zeros(2), jnp.full(2, 1.5)), directions=np.ones((1, 2))).jumps)


def test_what_has_no_rule_is_named():
    box = Interval(jnp.zeros(3), jnp.ones(3))
    for f, name in [
        (jnp.sort, "sort"),
        (lambda x: jnp.linalg.inv(jnp.outer(x, x) + jnp.eye(3)), "lu"),
        (lambda x: jax.lax.while_loop(lambda y: y.sum() < 9, lambda y: y + 1, x), "while"),
        (lambda x: x[jnp.argmax(x)], "argmax"),
        (lambda x: x * x.astype(jnp.int32), "integer"),
    ]:
        with pytest.raises(NotImplementedError, match=name):
            interval_value(f, box)


def test_single_precision_is_refused():
    with pytest.raises(ValueError, match="float64"):
        interval_value(jnp.tanh, Interval(jnp.zeros(2, jnp.float32), jnp.ones(2, jnp.float32)))
