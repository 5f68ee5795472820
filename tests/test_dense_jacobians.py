"""Jacobians whose tangents stay diagonal as long as they can: against `jax.jacfwd` and in operations counted by XLA."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnndyn as rd
from rnndyn._programs import value_and_jacobian

pytestmark = pytest.mark.newest

SIZE = 6
RNG = np.random.default_rng(0)
W, V = RNG.standard_normal((2, SIZE, SIZE))
B = RNG.standard_normal(SIZE)
X = RNG.standard_normal(SIZE).astype(np.float32)


@jax.custom_jvp
def steep(x):
    return jnp.tanh(3 * x)


@steep.defjvp
def _steep_rule(primals, tangents):
    (x,), (t,) = primals, tangents
    return steep(x), 7 * t * jnp.cos(x)


MAPS = {
    "tanh": lambda x: jnp.tanh(W @ x + B),
    "matrix on the right": lambda x: jnp.tanh(x) @ V,
    "leaky": lambda x: 0.9 * x + 0.1 * (W @ jnp.tanh(x) + B),
    "diagonal": lambda x: x * jnp.exp(-(x**2)) / 2 - x / B,
    "halves": lambda x: jnp.concatenate([jnp.tanh(W[:3, 3:] @ x[3:]) * x[:3], jnp.sin(x[:3])]),
    "halves in order": lambda x: jnp.concatenate([x[:2] * 3, jnp.sin(x[2:])]) + jnp.concatenate([x[2:], x[:2]]),
    "halves of other places": lambda x: jnp.tanh(W[:, :3] @ x[:3]) + jnp.tanh(W[:, 4:] @ x[4:]) + x,
    "kinks": lambda x: jnp.where(x > 0, jnp.maximum(W @ x, 0), -x) + jax.nn.relu(x) + jnp.abs(x),
    "low rank": lambda x: V[0] * jnp.sum(x * B) + V[1] * jnp.mean(jnp.tanh(x)) - x[0] * x[::-1],
    "gated": lambda x: jax.nn.sigmoid(W @ x) * x + (1 - jax.nn.sigmoid(V @ x)) * jnp.tanh(W @ (x * (V @ x))),
    "batch of matrices": lambda x: jnp.einsum("kij,j->i", np.stack([W, V]), x) + jnp.outer(x, x) @ B,
    "own rule": lambda x: W @ steep(x),
    "jitted": jax.jit(lambda x: jax.jit(jnp.tanh)(W @ x)),
    "loop": lambda x: jax.lax.fori_loop(0, 3, lambda _, x: jnp.tanh(W @ x), x),
    "constant": lambda x: jnp.asarray(B, x.dtype),
    "shuffled": lambda x: jnp.sort(x)[jnp.array([3, 0, 1, 2, 5, 4])] + jnp.cumsum(x) + x[1] / x,
    "one entry set": lambda x: x.at[2].set(jnp.tanh(x[1])),
    "other shapes": lambda x: (jnp.tanh(x.reshape(2, 3).T) @ np.ones((2, 2), np.float32)).reshape(6) * x[None].T[:, 0],
}


@pytest.mark.parametrize("name", MAPS)
def test_it_is_the_matrix_of_jacfwd(name):
    f = MAPS[name]
    both = jax.jit(lambda x: (value_and_jacobian(f, x), (f(x), jax.jacfwd(f)(x))))
    (value, matrix), (expected, by_columns) = both(X)
    np.testing.assert_allclose(value, expected, rtol=2e-6)
    np.testing.assert_allclose(matrix, by_columns, rtol=2e-5, atol=2e-6)
    assert matrix.dtype == X.dtype


def test_a_batch_of_states_and_of_weights():
    weights = RNG.standard_normal((3, SIZE, SIZE)).astype(np.float32)
    states = RNG.standard_normal((3, SIZE)).astype(np.float32)
    matrices = jax.jit(jax.vmap(lambda w, x: value_and_jacobian(lambda x: jnp.tanh(w @ x), x)[1]))(weights, states)
    slopes = 1 - np.tanh(np.einsum("kij,kj->ki", weights, states)) ** 2
    np.testing.assert_allclose(matrices, slopes[:, :, None] * weights, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["vanilla", "gru", "lstm"])
def test_a_cell_costs_no_product_of_two_matrices(kind):
    size = 64
    cell = {"vanilla": rd.VanillaCell, "gru": rd.GRUCell, "lstm": rd.LSTMCell}[kind](1, size, key=jax.random.key(0))
    f = rd.as_map(cell, np.zeros(1, np.float32))
    state = np.zeros(2 * size if kind == "lstm" else size, np.float32)
    cost = jax.jit(lambda x: value_and_jacobian(f, x)[1]).lower(state).compile().cost_analysis()
    # One product of two (N, N) matrices is 2 N^3 operations.
    assert cost["flops"] < state.size**3
