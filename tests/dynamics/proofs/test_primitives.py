"""Every primitive of JAX is enclosed or refused: sampled against 80-bit NumPy, or shown to raise with its name."""

import types

import jax
import jax.extend.core.primitives
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from rnndyn.dynamics.proofs import _evaluation, _primitives
from rnndyn.dynamics.proofs._branch_rules import COMPARISONS
from rnndyn.dynamics.proofs._primitives import called
from rnndyn.dynamics.proofs.interval_arithmetic import Interval
from rnndyn.dynamics.proofs.intervals import enclose, interval_value

pytestmark = [
    pytest.mark.newest,
    pytest.mark.usefixtures("x64"),
    pytest.mark.skipif(bool(np.finfo(np.longdouble).eps > 2.0**-60), reason="long double is no better than float64"),
]

KNOWN = {
    getattr(jax.extend.core.primitives, name).name for name in dir(jax.extend.core.primitives) if name[-2:] == "_p"
}
WITH_RULE = set(_evaluation._RULES) | _evaluation.MOVES | _evaluation.SAME | COMPARISONS
CALLS = {"jit", "remat2", "custom_jvp_call", "custom_vjp_call"}
OLDER_CALLS = {"call", "closed_call"}


def erf(x):
    """Abramowitz & Stegun 7.1.6: a series of positive terms."""
    term = total = x
    for n in range(1, 80):
        term = term * 2 * x * x / (2 * n + 1)
        total = total + term
    return total * 2 * np.exp(-x * x) / np.sqrt(np.longdouble("3.14159265358979323846264338327950288"))


@jax.custom_jvp
def doubled(x):
    return 2 * x


doubled.defjvp(lambda primals, tangents: (doubled(*primals), 5 * tangents[0]))


@jax.custom_vjp
def tripled(x):
    return 3 * x


tripled.defvjp(lambda x: (tripled(x), None), lambda _, g: (7 * g,))


def one_device(x):
    return lax.with_sharding_constraint(x, jax.sharding.SingleDeviceSharding(jax.devices("cpu")[0]))


def rounds(body, start, count):
    for i in range(count):
        start = body(i, start)
    return start


MATRIX = np.array([[0.5, -1.5, 2.0], [1.0, 0.25, -0.75]])

# By groups, each a single compilation: the map, and the same map in NumPy for long doubles x (3,) between .1 and .9.
GROUPS = {
    "smooth": [
        (lambda x: -x + (x - 2 * x[::-1]) * x / (3 + x), lambda x: -x + (x - 2 * x[::-1]) * x / (3 + x)),
        (lambda x: jnp.square(x) + x**3 + x**-2 + x**2.5, lambda x: x**2 + x**3 + 1 / x**2 + x ** np.longdouble(2.5)),
        (lambda x: jnp.sqrt(x) + lax.rsqrt(x), lambda x: np.sqrt(x) + 1 / np.sqrt(x)),
        (lambda x: jnp.exp(x) + jnp.expm1(x), lambda x: np.exp(x) + np.expm1(x)),
        (lambda x: jnp.log(x) + jnp.log1p(x), lambda x: np.log(x) + np.log1p(x)),
        (lambda x: jnp.tanh(x) + jax.nn.sigmoid(x), lambda x: np.tanh(x) + 1 / (1 + np.exp(-x))),
        (lambda x: jnp.sin(x) + 2 * jnp.cos(x), lambda x: np.sin(x) + 2 * np.cos(x)),
        (lambda x: jnp.tan(x), np.tan),
        (lambda x: jnp.arctan(x), np.arctan),
        (lambda x: jnp.sinh(x), np.sinh),
        (lambda x: jnp.cosh(x - 0.5), lambda x: np.cosh(x - np.longdouble(0.5))),
        (lambda x: jnp.arcsinh(x), np.arcsinh),
        (lambda x: jnp.exp2(x), np.exp2),
        (lambda x: jnp.log2(x), np.log2),
        (lambda x: lax.erf(x), erf),
        (lambda x: lax.erfc(x), lambda x: 1 - erf(x)),
        (
            lambda x: jnp.polyval(jnp.array([2.0, -1.0, 0.5, 3.0]), x),
            lambda x: ((2 * x - 1) * x + np.longdouble(0.5)) * x + 3,
        ),
        # Derivatives inside the map: add_any, and one_minus_square from jax 0.12 on.
        (lambda x: jax.grad(lambda y: jnp.sum(y * jnp.tanh(y)))(x), lambda x: np.tanh(x) + x * (1 - np.tanh(x) ** 2)),
    ],
    "sums and products": [
        (lambda x: MATRIX @ x, lambda x: MATRIX @ x),
        (lambda x: jnp.sum(x) + jnp.prod(jnp.outer(x, x[:2]), axis=1), lambda x: x.sum() + x**2 * x[0] * x[1]),
        (lambda x: jnp.prod(x) + jnp.prod(jnp.zeros((0,)) * x[0]), lambda x: x.prod() + 1),
        (lambda x: jnp.cumsum(x) + lax.cumsum(x, reverse=True), lambda x: np.cumsum(x) + np.cumsum(x[::-1])[::-1]),
        (lambda x: jnp.cumprod(x), np.cumprod),
        (lambda x: lax.cumlogsumexp(x), lambda x: np.log(np.cumsum(np.exp(x)))),
        (lambda x: jax.nn.logsumexp(x), lambda x: np.log(np.sum(np.exp(x)))),
        (lambda x: jax.nn.softmax(x), lambda x: np.exp(x) / np.exp(x).sum()),
        (
            lambda x: x.at[jnp.array([0, 0, 2])].add(x * x),
            lambda x: x + np.array([x[0] ** 2 + x[1] ** 2, 0, x[2] ** 2]),
        ),
        # The constant is the float64 nearest to the root of a half.
        (lambda x: jax.nn.gelu(x, approximate=False), lambda x: x * (1 + erf(x * np.longdouble(np.sqrt(0.5)))) / 2),
        (
            lambda x: (x - jnp.mean(x)) * lax.rsqrt(jnp.var(x) + 0.1),
            lambda x: (x - x.sum() / 3) / np.sqrt(((x - x.sum() / 3) ** 2).sum() / 3 + np.longdouble(0.1)),
        ),
    ],
    "branches": [
        (lambda x: jnp.abs(x - 0.5), lambda x: np.abs(x - np.longdouble(0.5))),
        (
            lambda x: jnp.maximum(x, x[1]) + jnp.minimum(2 * x, x[0]),
            lambda x: np.maximum(x, x[1]) + np.minimum(2 * x, x[0]),
        ),
        (lambda x: lax.clamp(0.25, x, 0.75), lambda x: np.clip(x, np.longdouble(0.25), np.longdouble(0.75))),
        (lambda x: jnp.max(x) * x + jnp.min(x), lambda x: x.max() * x + x.min()),
        (
            lambda x: lax.cummax(x) + 3 * lax.cummin(x),
            lambda x: np.maximum.accumulate(x) + 3 * np.minimum.accumulate(x),
        ),
        (lambda x: jnp.sign(x - 0.5) + x, lambda x: np.sign(x - np.longdouble(0.5)) + x),
        (lambda x: jnp.floor(3 * x) * x, lambda x: np.floor(3 * x) * x),
        (lambda x: jnp.ceil(3 * x) + jnp.round(3 * x), lambda x: np.ceil(3 * x) + np.round(3 * x)),
        (lambda x: lax.rem(x, jnp.full(3, 0.5)), lambda x: np.fmod(x, np.longdouble(0.5))),
        (lambda x: jnp.where((x > 0.3) & (x <= 0.7), x, 2 * x), lambda x: np.where((x > 0.3) & (x <= 0.7), x, 2 * x)),
        (lambda x: jnp.where((x < 0.3) | (x >= 0.7), x, 2 * x), lambda x: np.where((x < 0.3) | (x >= 0.7), x, 2 * x)),
        (lambda x: jnp.where(~((x < 0.3) ^ (x < 0.6)), x, -x), lambda x: np.where((x < 0.3) == (x < 0.6), x, -x)),
        (lambda x: x * jnp.all(x > 0.2) + jnp.any(x > 0.8), lambda x: x * np.all(x > 0.2) + np.any(x > 0.8)),
        (lambda x: jnp.where(x == x, x, 0.0) * (x != x + 1), lambda x: x),
        (lambda x: jnp.nan_to_num(jnp.where(jnp.isfinite(x), x, 0.0)), lambda x: x),
        (lambda x: lax.cond(x[0] > 0.5, lambda y: y * y, lambda y: y + 1, x), lambda x: x * x if x[0] > 0.5 else x + 1),
        # 300 and 3 as int8 are 44 and 3.
        (
            lambda x: x * jnp.where(x > 0.5, 300, 3).astype(jnp.int8).astype(float),
            lambda x: x * np.where(x > 0.5, 44, 3),
        ),
        # Truth value of an integer that may be -1, 0 or 1 and an integer comparison.
        (
            lambda x: x * jnp.where(x > 0.6, -1, jnp.where(x > 0.3, 0, 1)).astype(bool),
            lambda x: x * ((x > 0.6) | (x <= 0.3)),
        ),
        (lambda x: x * (jnp.where(x > 0.5, 2**40, 3) > 2**33), lambda x: x * (x > 0.5)),
    ],
    "moves, calls and loops": [
        (
            lambda x: jnp.outer(x, x[:2]).T.reshape(3, 2)[::-1].ravel(),
            lambda x: np.outer(x, x[:2]).T.reshape(3, 2)[::-1].ravel(),
        ),
        (lambda x: jnp.concatenate([x[1:], x[:1]]), lambda x: np.roll(x, -1)),
        (
            lambda x: lax.pad(x, 0.5, [(1, 0, 1)])[jnp.array([5, 0, 2])],
            lambda x: np.array([x[2], np.longdouble(0.5), np.longdouble(0.5)]),
        ),
        (lambda x: lax.dynamic_slice(x, (jnp.asarray(1),), (2,)), lambda x: x[1:]),
        (
            lambda x: lax.dynamic_update_slice(x, 2 * x[:1], (jnp.asarray(2),)),
            lambda x: np.array([x[0], x[1], 2 * x[0]]),
        ),
        (lambda x: x.at[1].set(x[0] * x[2]), lambda x: np.array([x[0], x[0] * x[2], x[2]])),
        (lambda x: jnp.stack(jnp.split(x, 3)[::-1])[:, 0], lambda x: x[::-1]),
        (lambda x: jnp.stack([*x, *(2 * x)]), lambda x: np.concatenate([x, 2 * x])),
        (lambda x: jnp.tile(x, 2), lambda x: np.tile(x, 2)),
        (lambda x: lax.stop_gradient(x) * jnp.array(x, copy=True), lambda x: x * x),
        (lambda x: lax.reduce_precision(x, 8, 7) + x.astype(jnp.float32).astype(jnp.float64), lambda x: 2 * x),
        (lambda x: lax.optimization_barrier(checkpoint_name(x, "x")), lambda x: x),
        (lambda x: jax.device_put(one_device(x)), lambda x: x),
        (
            lambda x: doubled(x) + tripled(x) + jax.checkpoint(jnp.sin)(x) + jax.jit(jnp.cos)(x),
            lambda x: 5 * x + np.sin(x) + np.cos(x),
        ),
        (lambda x: lax.fori_loop(0, 3, lambda i, y: y * x + i, x), lambda x: rounds(lambda i, y: y * x + i, x, 3)),
        (
            lambda x: lax.scan(lambda c, y: (c * y, c + y), x[0], x, reverse=True)[1],
            lambda x: np.array([x[0] * x[2] * x[1] + x[0], x[0] * x[2] + x[1], x[0] + x[2]]),
        ),
        (
            lambda x: lax.scan(lambda c, y: (c, y), x, jnp.zeros((0, 3)))[0] + lax.associative_scan(jnp.add, x),
            lambda x: x + np.cumsum(x),
        ),
    ],
}


def primitives_in(jaxpr):
    names = set()
    for eqn in jaxpr.eqns:
        names.add(eqn.primitive.name)
        bodies = [eqn.params["jaxpr"]] if eqn.primitive.name == "scan" else eqn.params.get("branches", ())
        body = called(eqn)
        for inner in (*bodies, *([body] if body else [])):
            names |= primitives_in(inner.jaxpr)
    return names


def together(functions, xp):
    return lambda x: xp.concatenate([xp.ravel(f(x)) for f in functions])


def centers_and_widths():
    centers = np.random.default_rng(0).uniform(0.16, 0.84, (8, 3))
    return centers, np.array([0.0, 1e-8, 1e-3, 0.05] * 2)[:, None]


@pytest.mark.parametrize("group", GROUPS)
def test_values_and_jacobians_are_enclosed(group):
    f, exact = (together(side, xp) for side, xp in zip(zip(*GROUPS[group]), (jnp, np)))
    centers, widths = centers_and_widths()
    lo, hi = centers - widths, centers + widths
    # Compiled without optimisation: the bounds are the same, and most of the time is compilation.
    enclose_each = jax.jit(
        jax.vmap(lambda lo, hi: enclose(f, Interval(lo, hi))), compiler_options={"xla_backend_optimization_level": 0}
    )
    found = enclose_each(lo, hi)
    value, jacobian = jax.device_get((found.value, found.jacobian))
    rng = np.random.default_rng(1)
    step = np.longdouble(1e-7)
    for k in range(len(lo)):
        for share in (0.0, 1.0, *rng.uniform(size=(6, 3))):
            x = np.clip(lo[k] + share * (hi[k] - lo[k]), lo[k], hi[k]).astype(np.longdouble)
            y = exact(x)
            assert (value.lo[k] <= y).all()
            assert (y <= value.hi[k]).all()
            slopes = np.stack([(exact(x + e) - exact(x - e)) / (2 * step) for e in step * np.eye(3)], axis=1)
            # Central differences: step^2 times third derivatives of up to 1e5. No claim where it says NaN.
            assert ((slopes >= jacobian.lo[k] - 1e-8) | np.isnan(jacobian.lo[k])).all()
            assert ((slopes <= jacobian.hi[k] + 1e-8) | np.isnan(jacobian.hi[k])).all()
    # Not by knowing nothing: at points, away from jumps, bounds are tight.
    assert (value.hi[0] - value.lo[0] < 1e-12).all()
    assert (jacobian.hi[0] - jacobian.lo[0] < 1e-11).all()


def test_every_rule_is_among_the_samples():
    seen = set()
    for group in GROUPS.values():
        for f, _ in group:
            seen |= primitives_in(jax.make_jaxpr(f)(jnp.ones(3)).jaxpr)
    assert not CALLS - seen
    # What this version of JAX has no primitive for, or another one (`stack`, `log2`, ...), cannot be met either.
    assert WITH_RULE & (KNOWN | seen) <= seen


@pytest.mark.parametrize("name", [*sorted(KNOWN - WITH_RULE - CALLS - OLDER_CALLS), "a future primitive"])
def test_every_other_primitive_is_refused(name):
    """Whatever it carries, a jaxpr included."""
    primitive = jax.extend.core.Primitive(name)
    primitive.def_abstract_eval(lambda x, **_: x)
    inner = jax.make_jaxpr(lambda x: x)(jnp.ones(3))
    f = lambda x: primitive.bind(x, jaxpr=inner, call_jaxpr=inner, fun_jaxpr=inner, branches=(inner,))
    with pytest.raises(NotImplementedError, match=f"`{name}`"):
        interval_value(f, Interval(jnp.zeros(3), jnp.ones(3)))


REFUSED = {
    "reduce": lambda x: lax.reduce(x, 0.0, jnp.logaddexp, (0,)),
    "reduce_window": lambda x: lax.reduce_window(x, 0.0, jnp.logaddexp, (2,), (1,), "VALID"),
    "reduce_window_max": lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (2,), (1,), "VALID"),
    "while": lambda x: lax.while_loop(lambda y: y.sum() < 9, lambda y: y + 1, x),
    "sort": jnp.sort,
    "top_k": lambda x: lax.top_k(x, 2)[0],
    "argmax": lambda x: x[jnp.argmax(x)],
    "custom_linear_solve": lambda x: lax.custom_linear_solve(lambda v: 2 * v, x, lambda _, b: b / 2),
    "lu": lambda x: jnp.linalg.inv(jnp.outer(x, x) + jnp.eye(3)),
    "eigh": lambda x: jnp.linalg.eigvalsh(jnp.outer(x, x)),
    "cholesky": lambda x: jnp.linalg.cholesky(jnp.outer(x, x) + jnp.eye(3)),
    "complex": lambda x: jnp.abs(lax.complex(x, x)),
    "convert_element_type": lambda x: jnp.real(jnp.fft.fft(x)),
    "conv_general_dilated": lambda x: jnp.convolve(x, x),
    "scatter-mul": lambda x: x.at[0].multiply(x[1]),
    "gather": lambda x: jnp.take(x, (x > 0.5).astype(int), mode="clip"),
    "lgamma": lambda x: lax.lgamma(x),
    "add": lambda x: x * ((x > 0).astype(int) + 1),
    "and": lambda x: x * (jnp.where(x > 0, 6, 3) & 5),
    "clamp": lambda x: lax.switch((x[0] > 0.3).astype(int), [lambda y: y, lambda y: -y], x),
    "integer": lambda x: x * x.astype(jnp.int32),
    "1001 rounds": lambda x: lax.fori_loop(0, 1001, lambda i, y: y / 2, x),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_rule_is_refused_by_name(name):
    with pytest.raises(NotImplementedError, match=name):
        interval_value(REFUSED[name], Interval(jnp.zeros(3), jnp.ones(3)))


def test_an_unknown_version_of_jax_is_named():
    """A scan whose parameters were renamed."""

    (eqn,) = jax.make_jaxpr(lambda x: lax.scan(lambda c, y: (c, y), x[0], x))(jnp.ones(3)).jaxpr.eqns[-1:]
    renamed = {"jaxpr": eqn.params["jaxpr"], "length": 3, "reverse": False, "number_of_constants": 0}
    with pytest.raises(NotImplementedError, match="`scan` is not as interval arithmetic knows it"):
        _primitives.scan(types.SimpleNamespace(primitive=eqn.primitive, params=renamed))
