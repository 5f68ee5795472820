"""The passes written out, against the plain scan, its derivatives of both modes and orders, and finite differences."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks.random_cells import fill, normal

import rnndyn as rd
from rnndyn._programs import as_program
from rnndyn.networks.fast_sequence import sequence

B, T, IN, H = 3, 7, 2, 4
CELLS = {
    "lstm": lambda key: rd.LSTMCell(IN, H, key=key),
    "gru": lambda key: rd.GRUCell(IN, H, key=key),
    "tanh": lambda key: rd.VanillaCell(IN, H, key=key),
    "sigmoid": lambda key: rd.VanillaCell(IN, H, activation="sigmoid", key=key),
    "relu": lambda key: rd.VanillaCell(IN, H, activation="relu", key=key),
}
ROUNDING = {"rtol": 1e-12, "atol": 1e-12}  # float64, a few steps


def starts(cell, *shape):
    return jax.tree.map(lambda s: normal(*shape, *s.shape, seed=5), cell.initial_state())


def loss(cell, start, inputs, fast, reverse=False):
    """Any function of all states of a batch that treats every entry in its own way."""
    run = lambda start, inputs: rd.unroll(cell, inputs, start, reverse=reverse, fast=fast)
    leaves = jax.tree.leaves(jax.vmap(run)(start, inputs))
    return sum(jnp.sum(jnp.sin(k + jnp.arange(s.size)).reshape(s.shape) * s**2) for k, s in enumerate(leaves))


def assert_same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, **ROUNDING)


def primitives(jaxpr):
    found = set()
    for eqn in jaxpr.eqns:
        found.add(eqn.primitive.name)
        for value in jax.tree.leaves(eqn.params, is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                found |= primitives(inner)
    return found


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", CELLS)
def test_states_and_gradients_of_a_batch(name):
    cell = fill(CELLS[name])
    primals = (cell, starts(cell, B), normal(B, T, IN))
    both = lambda fast: eqx.filter_jit(lambda p: jax.value_and_grad(lambda p: loss(*p, fast))(p))(primals)
    assert_same(both(True), both(False))
    # Central differences of a sum of squares: errors of 1e-10 from rounding, h^2 from curvature.
    direction = jax.tree.map(lambda leaf: normal(*leaf.shape, seed=9), primals)
    moved = lambda h: jax.tree.map(lambda x, d: x + h * d, primals, direction)
    slope = (loss(*moved(1e-5), False) - loss(*moved(-1e-5), False)) / 2e-5
    inner = sum(jnp.vdot(g, d) for g, d in zip(*map(jax.tree.leaves, (both(True)[1], direction))))
    np.testing.assert_allclose(inner, slope, rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_forward_mode_and_second_derivatives():
    # One cell for all: these are derivatives of the plain scan, whatever the cell.
    cell = fill(CELLS["gru"])
    primals = (cell, starts(cell, B), normal(B, T, IN))
    direction = jax.tree.map(lambda leaf: normal(*leaf.shape, seed=9), primals)

    def of(fast):
        value = lambda p: loss(*p, fast)
        slope = lambda p: jax.jvp(value, (p,), (direction,))[1]
        return (
            slope(primals),
            jax.jvp(jax.grad(value), (primals,), (direction,))[1],  # forward over reverse
            jax.grad(slope)(primals),  # reverse over forward
            jax.grad(lambda p: sum(jnp.sum(g**2) for g in jax.tree.leaves(jax.grad(value)(p))))(primals),
        )

    run = eqx.filter_jit(of)
    fast, plain = run(True), run(False)
    assert_same(fast, plain)
    assert_same(fast[1], fast[2])


@pytest.mark.usefixtures("x64")
def test_ensembles_examples_and_axes_elsewhere():
    cells = [fill(CELLS["gru"], seed=seed) for seed in range(2)]
    many = jax.tree.map(lambda *leaves: jnp.stack(leaves), *cells)
    start, inputs = starts(cells[0], B), normal(B, T, IN)

    @eqx.filter_jit
    def of(fast):
        gradient = lambda cell, start, inputs: jax.grad(loss)(cell, start, inputs, fast)
        of_one = lambda start, inputs: gradient(cells[0], start[None], inputs[None])
        last = lambda cell, inputs: rd.unroll(cell, inputs, fast=fast)[-1]
        from_start = lambda state: rd.unroll(cells[0], inputs[0], state, fast=fast)
        return (
            eqx.filter_vmap(gradient, in_axes=(0, None, None))(many, start, inputs),  # an ensemble on one batch
            jax.vmap(of_one)(start, inputs),  # the gradient of every example
            jax.grad(lambda cell: jnp.sum(jax.vmap(last, (None, 1))(cell, jnp.swapaxes(inputs, 0, 1)) ** 2))(cells[0]),
            jax.grad(lambda cells: jnp.sum(jax.vmap(last, (0, None))(cells, inputs[0]) ** 2))(many),
            jax.grad(lambda s: jnp.sum(jax.vmap(from_start)(s) ** 2))(start),
            jax.jacfwd(lambda x: last(cells[0], x))(inputs[0]),
            jax.grad(loss)(cells[0], start, inputs, fast, reverse=True),
        )

    assert_same(of(True), of(False))


def test_where_it_is_used():
    cell = fill(CELLS["lstm"])
    names = lambda cell, inputs, **kw: primitives(jax.make_jaxpr(lambda u: rd.unroll(cell, u, **kw))(inputs).jaxpr)
    inputs, mask = np.zeros((T, IN), np.float32), np.ones(T, bool)
    assert "rnndyn_states" in names(cell, inputs)
    assert "rnndyn_states" in names(cell, inputs, reverse=True)
    for kw in ({"fast": False}, {"mask": mask}, {"remat_every": 2}):
        assert "rnndyn_states" not in names(cell, inputs, **kw)
    assert sequence(rd.StackedCell([cell]), (cell.initial_state(),), jnp.asarray(inputs)) is None
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), cell)
    assert "rnndyn_states" not in names(half, inputs.astype(jnp.bfloat16))
    of_batch = jax.make_jaxpr(jax.grad(lambda cell: loss(cell, starts(cell, B), normal(B, T, IN), True)))(cell)
    assert {"rnndyn_states", "rnndyn_states_gradients"} <= primitives(of_batch.jaxpr)


class Twice(rd.GRUCell):
    """A step of its own."""

    def __call__(self, state, input):
        return 2 * super().__call__(state, input)


def test_a_subclass_keeps_its_step():
    weights = [normal(3 * H, IN), normal(3 * H, H), normal(3 * H), normal(H)]
    cell, inputs = Twice.from_weights(*weights), normal(T, IN)
    state = cell.initial_state()
    for input in inputs:
        state = cell(state, input)
    np.testing.assert_allclose(rd.unroll(cell, inputs)[-1], state, rtol=1e-5)


def test_analyses_read_the_plain_scan():
    cell, inputs = fill(CELLS["gru"]), normal(T, IN)
    last = lambda x: rd.unroll(cell, inputs, x)[-1]
    assert "rnndyn_states" in primitives(jax.make_jaxpr(last)(jnp.zeros(H)).jaxpr)
    assert "rnndyn_states" not in primitives(as_program(last, jnp.zeros(H), double=False).code.jaxpr)


def test_analyses_write_out_what_a_compiled_function_holds_from_before():
    """`jax.jit` keeps the trace of its first run, with the passes in it; also in loops, and differentiated."""
    cell, inputs = fill(CELLS["tanh"]), normal(T, IN)
    last = lambda x: rd.unroll(cell, inputs, x)[-1]
    slope = lambda x: jax.jvp(last, (x,), (jnp.ones_like(x),))[1] + jax.grad(lambda x: jnp.sum(last(x) ** 2))(x)

    @jax.jit
    def f(x):
        return jax.lax.scan(lambda x, _: (jax.checkpoint(last)(x) + slope(x), None), x, None, length=2)[0]

    x = normal(H)
    expected = f(x)
    held = {name for name in primitives(jax.make_jaxpr(f)(x).jaxpr) if name.startswith("rnndyn")}
    assert held == {"rnndyn_states", "rnndyn_states_tangent", "rnndyn_states_gradients"}
    program = as_program(f, x, double=False)
    assert not {name for name in primitives(program.code.jaxpr) if name.startswith("rnndyn")}
    np.testing.assert_allclose(eqx.filter_jit(program)(x), expected, rtol=1e-5, atol=1e-6)
