"""The door for callables: one program for what is alike, the right numbers in the right precision, in any order."""

import contextlib
import functools
import gc
import sys
import types
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilation_counts import count_compilations

import rnndyn as rd
from rnndyn._programs import Program, as_program
from rnndyn.dynamics.proofs.interval_arithmetic import Interval
from rnndyn.dynamics.proofs.intervals import enclose

pytestmark = pytest.mark.newest

WEIGHTS = np.random.default_rng(0).normal(size=(3, 3))
BIAS = np.random.default_rng(1).normal(size=3)
STATE = np.array([0.3, -0.2, 0.7])
GAIN = 1.25


def double(f, *args, **options) -> Program:
    with jax.enable_x64(True):
        return as_program(f, *args, double=True, **options)


def single(f, *args, **options) -> Program:
    return as_program(f, *args, double=False, **options)


@eqx.filter_jit
def run(program, *args):
    return program(*args)


@eqx.filter_jit
def jacobian(program, x):
    return jax.jacfwd(program)(x)


def in_double(function, *args):
    with jax.enable_x64(True):
        return np.asarray(function(*[np.asarray(a, np.float64) if isinstance(a, np.ndarray) else a for a in args]))


def tanh_map(weights, bias, gain=1.0):
    return lambda x: jnp.tanh(gain * (weights @ x) + bias)


class TanhModule(eqx.Module):
    weights: jax.Array | np.ndarray
    activation: Callable = eqx.field(static=True, default=jnp.tanh)

    def __call__(self, x):
        return self.activation(self.weights @ x)

    def step(self, x):
        return self.weights @ x


class Gained(eqx.Module):
    factor = 1.0

    def __call__(self, x):
        return GAIN * self.factor * x


class PlainObject:
    def __init__(self, weights):
        self.weights = weights

    def __call__(self, x):
        return jnp.tanh(self.weights @ x)

    def step(self, x):
        return jnp.tanh(self.weights @ x)


def global_map(x):
    return jnp.tanh(WEIGHTS @ x + BIAS)


def logistic(r):
    """A closure on purpose: what it captures is what is tested."""
    return lambda x: r * x * (1 - x)


def newton_root(a):
    """The square root of a + x^2 by `custom_root`, whose derivative is implicit."""

    def f(x):
        def solve(g, y):
            return jax.lax.fori_loop(0, 60, lambda _, y: y - g(y) / (2 * y), y)

        return jax.lax.custom_root(
            lambda y: y**2 - a - x**2, jnp.ones_like(x), solve, lambda g, y: y / g(jnp.ones_like(y))
        )

    return f


def looped(a, kind):
    """Four steps x -> a sin(x), written in different ways."""
    if kind == "fori":
        return lambda x: jax.lax.fori_loop(0, 4, lambda _, x: a * jnp.sin(x), x)
    if kind == "while":
        return lambda x: jax.lax.while_loop(lambda c: c[0] < 4, lambda c: (c[0] + 1, a * jnp.sin(c[1])), (0, x))[1]
    if kind == "scan":
        return lambda x: jax.lax.scan(lambda x, _: (a * jnp.sin(x), None), x, None, length=4)[0]
    if kind == "jit":
        return jax.jit(lambda x: functools.reduce(lambda x, _: a * jnp.sin(x), range(4), x))
    return lambda x: jax.lax.cond(
        x[0] < 9,
        functools.partial(lambda k, x: functools.reduce(lambda y, _: a * jnp.sin(y), range(k), x), 4),
        lambda x: a * x,
        x,
    )


FORMS = {
    "closure": lambda w: lambda x: jnp.tanh(w @ x),
    "partial": lambda w: functools.partial(lambda w, x: jnp.tanh(w @ x), w),
    "keyword": lambda w: functools.partial(lambda x, w: jnp.tanh(w @ x), w=w),
    "default": lambda w: lambda x, w=w: jnp.tanh(w @ x),
    "module": TanhModule,
    "nested": lambda w: functools.partial(lambda f, x: f(x), TanhModule(w)),
    "method": lambda w: PlainObject(w).step,
    "object": PlainObject,
    "jitted": lambda w: jax.jit(lambda x: jnp.tanh(w @ x)),
    "wrapped": lambda w: functools.wraps(jnp.tanh)(lambda x: jnp.tanh(w @ x)),
    "list": lambda w: (lambda ws: lambda x: jnp.tanh(ws[0] @ x))([w]),
    "dictionary": lambda w: (lambda ws: lambda x: jnp.tanh(ws["w"] @ x))({"w": w}),
    "filter_jit": lambda w: eqx.filter_jit(lambda x: jnp.tanh(w @ x)),
    "vmap": lambda w: lambda x: jax.vmap(lambda row: jnp.tanh(row @ x))(w),
    "checkpoint": lambda w: jax.checkpoint(lambda x: jnp.tanh(w @ x)),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_second_one_of_a_form_compiles_nothing(form):
    make, first, second = FORMS[form], WEIGHTS, WEIGHTS.T
    in_double(run, double(make(first), STATE), STATE)
    program = double(make(second), STATE)
    with count_compilations() as count:
        got = in_double(run, program, STATE)
    assert count() == 0
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, np.tanh(second @ STATE), rtol=4e-16 * 4)


@pytest.mark.parametrize("form", FORMS)
def test_float32_weights_are_lifted_before_anything_is_computed(form):
    weights = jnp.asarray(WEIGHTS, jnp.float32)
    got = in_double(run, double(FORMS[form](weights), STATE), STATE)
    np.testing.assert_allclose(got, np.tanh(np.asarray(weights, np.float64) @ STATE), rtol=2e-15)


def test_what_is_computed_from_float32_weights_is_computed_in_float64():
    weights = jnp.asarray(WEIGHTS, jnp.float32)
    got = in_double(run, double(lambda x: (weights * 0.1 + weights.T / 3) @ x, STATE), STATE)
    w = np.asarray(weights, np.float64)
    np.testing.assert_allclose(got, (w * 0.1 + w.T / 3) @ STATE, rtol=1e-14)
    # Weights that the trace needs by number are lifted too.
    host = np.asarray(weights)
    got = in_double(run, double(lambda x: (host * 0.1) @ x if host[0, 0] > -9 else x, STATE), STATE)
    np.testing.assert_allclose(got, (w * 0.1) @ STATE, rtol=1e-14)


def test_what_is_held_but_not_read_is_no_leaf():
    experiment = PlainObject(WEIGHTS)
    vars(experiment).update(data=[np.ones((50, 50))] * 3, other=Tensor())
    assert [c.shape for c in double(experiment.step, STATE).constants] == [(3, 3)]


def test_python_numbers_are_shared_too():
    in_double(run, double(tanh_map(WEIGHTS, BIAS, 1.7), STATE), STATE)
    with count_compilations() as count:
        program = double(tanh_map(WEIGHTS, BIAS, 1.3), STATE)
        got = in_double(run, program, STATE)
    assert count() == 0
    np.testing.assert_allclose(got, np.tanh(1.3 * (WEIGHTS @ STATE) + BIAS), rtol=2e-15)


@pytest.mark.parametrize("kind", ["fori", "while", "scan", "jit", "cond"])
def test_numbers_inside_loops_are_leaves(kind):
    in_double(run, double(looped(1.3, kind), STATE), STATE)
    with count_compilations() as count:
        got = in_double(run, double(looped(1.7, kind), STATE), STATE)
    assert count() == 0
    expected = STATE
    for _ in range(4):
        expected = 1.7 * np.sin(expected)
    np.testing.assert_allclose(got, expected, rtol=2e-15)


@pytest.mark.parametrize("order", ["sdsd", "dsds", "jsdj", "jdsj", "djd", "JdsJ", "JjdsjJ"])
def test_no_order_of_precisions_changes_a_number(order):
    """s, d: the door in float32 and float64; j, J: the user's own jit of the function in the same two states."""
    weights, bias = WEIGHTS.copy(), BIAS.copy()
    module = types.ModuleType("notebook")
    exec("import jax.numpy as jnp\ndef f(x): return jnp.tanh(W @ x + b)", module.__dict__)
    module.__dict__.update(W=weights, b=bias)
    closure = tanh_map(weights, bias)
    alive = []
    for f in (module.f, closure):
        for step in order:
            expected = np.tanh(weights @ STATE + bias)
            if step == "s":
                np.testing.assert_allclose(run(single(f, STATE), STATE), expected, rtol=1e-5)
            elif step == "d":
                got = in_double(run, double(f, STATE), STATE)
                assert got.dtype == np.float64
                np.testing.assert_allclose(got, expected, rtol=2e-15)
            else:
                alive.append(jax.jit(f))
                # In some orders it fails by JAX's own fault, which the door keeps away.
                with jax.enable_x64(step == "J"), contextlib.suppress(ValueError):
                    alive[-1](STATE)


def test_what_is_read_anew_is_never_stale():
    gain = 1.5
    scales = {"a": 2.5}

    def f(x):
        return gain * x * scales["a"]

    assert single(f, STATE)(STATE)[0] == pytest.approx(1.5 * 2.5 * 0.3)
    gain = 3.5
    assert single(f, STATE)(STATE)[0] == pytest.approx(3.5 * 2.5 * 0.3)
    scales["a"] = 4.5
    assert single(f, STATE)(STATE)[0] == pytest.approx(3.5 * 4.5 * 0.3)


def test_a_global_that_a_module_reads_is_read_anew(monkeypatch):
    assert single(Gained(), STATE)(STATE)[0] == pytest.approx(1.25 * 0.3)
    monkeypatch.setattr(sys.modules[__name__], "GAIN", 5.5)
    assert single(Gained(), STATE)(STATE)[0] == pytest.approx(5.5 * 0.3)
    monkeypatch.setattr(Gained, "factor", 3.5)
    assert single(Gained(), STATE)(STATE)[0] == pytest.approx(3.5 * 5.5 * 0.3)
    monkeypatch.setattr(Gained, "factor", 1.0)
    monkeypatch.setattr(sys.modules[__name__], "GAIN", np.full(3, 6.5))
    assert single(Gained(), STATE)(STATE)[0] == pytest.approx(6.5 * 0.3)


def test_arrays_changed_in_place_are_read_anew():
    weights = WEIGHTS.copy()
    f = tanh_map(weights, BIAS)
    single(f, STATE)
    weights[:] = 0
    np.testing.assert_allclose(single(f, STATE)(STATE), np.tanh(BIAS), rtol=1e-6)


def custom(rule):
    @jax.custom_jvp
    def f(x):
        return jnp.sin(x)

    @f.defjvp
    def _(primals, tangents):
        return f(primals[0]), rule * tangents[0]

    return f


def custom_reverse(rule):
    @jax.custom_vjp
    def f(x):
        return jnp.sin(x)

    f.defvjp(lambda x: (jnp.sin(x), None), lambda _, c: (rule * c,))
    return f


DIFFERENT = {
    "power": (lambda x: x**2, lambda x: x**3),
    "structural number": (lambda x: x + 1, lambda x: x + 2),
    "order": (lambda x: x - jnp.sin(x), lambda x: jnp.sin(x) - x),
    "index": (lambda x: x * x[0], lambda x: x * x[1]),
    "branch": (lambda x: jnp.maximum(x, 0.0), lambda x: jnp.minimum(x, 0.0)),
    "jvp rule": (custom(2.0), custom(1.0)),
    "vjp rule": (custom_reverse(2.0), custom_reverse(1.0)),
    "static": (rd.iterate(jnp.sin, 2), rd.iterate(jnp.sin, 3)),
    "sign of zero": (lambda x: jnp.copysign(x, 0.0), lambda x: jnp.copysign(x, -0.0)),
    "aliases": (
        (lambda a: lambda x: (a + a) * x)(WEIGHTS[0]),
        (lambda a, b: lambda x: (a + b) * x)(WEIGHTS[0], WEIGHTS[1].copy()),
    ),
}


@pytest.mark.parametrize("pair", DIFFERENT)
def test_different_programs_are_never_taken_for_equal(pair):
    f, g = DIFFERENT[pair]
    assert single(f, STATE).code != single(g, STATE).code
    assert single(f, STATE).code == single(f, STATE).code


def test_derivative_rules_are_kept():
    x = np.array([0.0, -1.0, 2.0])
    assert np.diag(jacobian(single(jax.nn.relu, x), x)).tolist() == [0.0, 0.0, 1.0]
    np.testing.assert_allclose(np.diag(jacobian(single(custom(7.0), x), x)), 7.0)
    sigmoid = 1 / (1 + np.exp(-x))
    got = np.diag(in_double(jacobian, double(jax.nn.silu, x), x))
    np.testing.assert_allclose(got, sigmoid * (1 + x * (1 - sigmoid)), rtol=1e-14)
    program = single(custom_reverse(7.0), x)
    np.testing.assert_allclose(jax.grad(lambda y: program(y).sum())(jnp.asarray(x)), 7.0)
    got = np.diag(in_double(jacobian, double(newton_root(2.0), x), x))
    np.testing.assert_allclose(got, x / np.sqrt(2 + x**2), rtol=1e-14)


def test_functions_with_their_own_rules_share_compilations():
    def make(w):
        return lambda x: jax.nn.softplus(jax.nn.relu(w @ x)) + custom(2.0)(x) + custom_reverse(3.0)(x)

    run(single(make(WEIGHTS), STATE), STATE)
    program = single(make(WEIGHTS.T), STATE)
    with count_compilations() as count:
        got = run(program, STATE)
    assert count() == 0
    expected = np.logaddexp(np.maximum(WEIGHTS.T @ STATE, 0), 0) + 2 * np.sin(STATE)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_derivatives_with_respect_to_what_is_captured_flow():
    def loss(w, r):
        program = single(lambda x: logistic(r)(jnp.sin(w * x)), STATE)
        return jnp.sum(program(STATE))

    w, r = np.array([1.0, 2.0, 3.0]), 3.7
    dw, dr = jax.jit(jax.grad(loss, (0, 1)))(w, r)
    y = np.sin(w * STATE)
    np.testing.assert_allclose(dw, r * (1 - 2 * y) * np.cos(w * STATE) * STATE, rtol=1e-5)
    np.testing.assert_allclose(dr, np.sum(y * (1 - y)), rtol=1e-5)
    rows = jax.vmap(loss, (0, None))(np.stack([w, 2 * w]), r)
    z = np.sin(2 * w * STATE)
    np.testing.assert_allclose(rows, [np.sum(r * y * (1 - y)), np.sum(r * z * (1 - z))], rtol=1e-5)
    # A trace within a transformation leaves nothing behind.
    assert float(loss(w, r)) == pytest.approx(float(rows[0]), rel=1e-6)


def test_two_arguments_and_trees():
    program = double(lambda x, u: {"y": WEIGHTS @ x + u["a"]}, STATE, {"a": np.ones(3, np.float32)}, keeps_state=False)
    with jax.enable_x64(True):
        got = program(STATE, {"a": BIAS})["y"]
    np.testing.assert_allclose(got, WEIGHTS @ STATE + BIAS, rtol=1e-14)


def test_a_flow_is_a_program():
    class Decay(eqx.Module):
        rate: np.ndarray

        def __call__(self, x):
            return -self.rate * x

    state = np.array([1.0, 2.0])
    in_double(jacobian, double(rd.time_map(Decay(np.array([0.5, 0.9])), 0.5), state), state)
    program = double(rd.time_map(Decay(np.array([1.0, 0.25])), 0.5), state)
    with count_compilations() as count:
        slope = in_double(jacobian, program, state)
    assert count() == 0
    # rtol and atol of the solver are 1e-9
    np.testing.assert_allclose(np.diag(slope), np.exp([-0.5, -0.125]), rtol=1e-7)
    np.testing.assert_allclose(in_double(program, state), state * np.exp([-0.5, -0.125]), rtol=1e-8)


def test_a_flow_of_a_plain_function_is_one_program():
    def make(mu):
        def field(x):
            return jnp.stack([x[1], mu * (1 - x[0] ** 2) * x[1] - x[0]])

        return rd.time_map(field, 0.1)

    state = np.ones(2)
    mu = np.float64(1.5)
    first, second = double(make(mu), state), double(make(np.float64(0.0)), state)
    assert first.code == second.code
    # mu = 0: a rotation by 0.1
    expected = [np.cos(0.1) + np.sin(0.1), np.cos(0.1) - np.sin(0.1)]
    np.testing.assert_allclose(in_double(second, state), expected, rtol=1e-8)


def test_error_if_still_raises():
    def f(x):
        return eqx.error_if(x, x[0] > 10.0, "too large")

    program = single(f, STATE)
    np.testing.assert_allclose(run(program, STATE), STATE, rtol=1e-6)
    with pytest.raises(RuntimeError, match="too large"):
        jax.block_until_ready(run(program, 100 + STATE))


def test_intervals_read_a_program_as_they_read_the_function():
    def f(x):
        return jnp.tanh(1.7 * (WEIGHTS @ x)) + jnp.maximum(x, 0.0) ** 2 - jnp.where(x > 0.1, 0.3 * x, 1.1 * x)

    with jax.enable_x64(True):
        box = Interval(jnp.asarray(STATE - 0.5), jnp.asarray(STATE + 0.5))
        expected, got = enclose(f, box), enclose(as_program(f, STATE, double=True), box)
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(got)):
        np.testing.assert_array_equal(a, b)


def test_a_map_that_computes_in_float32_is_refused():
    with pytest.raises(ValueError, match="f: computes in float32 by itself"):
        double(lambda x: jnp.tanh(x.astype(jnp.float32)).astype(x.dtype), STATE)
    with pytest.raises(ValueError, match="computes in float16 by itself"):
        double(lambda x: jax.lax.scan(lambda x, _: (x.astype(jnp.float16).astype(x.dtype), None), x, None, 3)[0], STATE)
    with pytest.raises(ValueError, match="computes in float32 by itself"):
        double(lambda x: x.astype(jnp.float32), STATE)
    # Constants in float32 are numbers like others.
    got = in_double(double(lambda x: jnp.array([1, 2, 3], jnp.float32) * x, STATE), STATE)
    np.testing.assert_array_equal(got, [1, 2, 3] * STATE)


class Tensor:
    __module__ = "torch"


MISTAKES = {
    "numpy": (lambda x: np.tanh(x), "Write it with jax.numpy"),
    "numpy with weights": (lambda x: np.tanh(WEIGHTS @ x), "Write it with jax.numpy"),
    "torch": ((lambda t: lambda x: t @ x)(Tensor()), "torch tensor"),
    "shape": (lambda x: x[:2], r"keep the shape \(3,\)"),
    "dtype": (lambda x: x.astype(int), "keep the dtype float32"),
    "tuple": (lambda x: (x, x), "as_map"),
    "arguments": (lambda x, u: x, r"calling it on a state of shape \(3,\) failed"),
    "weights": (lambda x: np.ones((2, 2)) @ x, "failed"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named(mistake):
    f, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match="g: .*" + message):
        single(f, STATE, name="g")


def test_programs_say_what_they_were_made_for():
    program = single(jnp.sin, STATE)
    with pytest.raises(ValueError, match=r"shape \(3,\), called with \(2,\)"):
        program(STATE[:2])
    with pytest.raises(RuntimeError, match="double_precision"):
        as_program(jnp.sin, STATE, double=True)


def test_what_the_trace_needs_by_number_is_a_constant_of_it():
    def make(w):
        def f(x):
            return jnp.tanh(w @ x) if w[0, 0] > 0 else w @ x

        return f

    positive, negative = np.abs(WEIGHTS), -np.abs(WEIGHTS)
    np.testing.assert_allclose(single(make(positive), STATE)(STATE), np.tanh(positive @ STATE), rtol=1e-5)
    np.testing.assert_allclose(single(make(negative), STATE)(STATE), negative @ STATE, rtol=1e-5)
    assert single(make(positive), STATE).code == single(make(2 * positive), STATE).code


def test_traces_are_saved_and_let_go():
    traced = []

    def make(w):
        def f(x):
            traced_here(x)
            return jnp.sin(w * x)

        return f

    def traced_here(x, counts=traced.append):
        counts(x.shape)

    # A list's method in a default may do anything: traced every time.
    single(make(BIAS), STATE)
    single(make(BIAS), STATE)
    assert len(traced) >= 2
    store = sys.modules["rnndyn._programs.program"]
    for k in range(store._traces.size + 20):
        single(functools.partial(lambda k, x: x * (k + x), k), STATE)
    assert len(store._traces) <= store._traces.size
    store._traces.shrink(0)
    gc.collect()
    before = len(store._codes)
    program = single(lambda x: jnp.cos(jnp.cos(jnp.sin(x))), STATE)
    store._traces.shrink(0)
    assert len(store._codes) == before + 1
    del program
    gc.collect()
    assert len(store._codes) <= before


def test_a_program_runs_under_shard_map():
    program = single(tanh_map(WEIGHTS, BIAS, 1.7), STATE)
    mesh = jax.make_mesh((1,), ("k",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("k")
    batch = np.stack([STATE, 2 * STATE])
    # Equations traced outside do not say along which axes of the mesh they vary: JAX is not to check that.
    mapped = jax.shard_map(jax.vmap(program), mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    got = jax.jit(mapped)(batch)
    np.testing.assert_allclose(got, np.tanh(1.7 * batch @ WEIGHTS.T + BIAS), rtol=1e-5)


def test_keys_of_random_numbers_are_inputs():
    noise = lambda x, key: x + jax.random.normal(key, x.shape)
    noisy = as_program(noise, jnp.zeros(3), jax.random.key(3), double=False)
    for seed in (3, 4):
        key = jax.random.key(seed)
        # Under `jit` both: one program may round the sum and the number together.
        np.testing.assert_array_equal(noisy(jnp.ones(3), key), jax.jit(noise)(jnp.ones(3), key))
