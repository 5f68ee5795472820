"""Distributions of the initialisers, by their moments and by their defining property."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilation_counts import count_compilations

import rnndyn as rd
from rnndyn import initializers as init
from rnndyn.networks.random_numbers import normal_numbers, uniform_numbers

ROWS, COLUMNS = 300, 100


def draw(initializer, shape=(ROWS, COLUMNS)):
    return np.asarray(initializer(jax.random.key(0), shape, jnp.float32), np.float64)


@pytest.mark.parametrize(
    ("initializer", "std", "bound"),
    [
        (init.inverse_sqrt_uniform(COLUMNS), 0.1 / np.sqrt(3), 0.1),
        (init.uniform(0.5), 0.5 / np.sqrt(3), 0.5),
        (init.gaussian(1.5), 0.15, np.inf),
        (init.glorot_uniform(), np.sqrt(2 / 400), np.sqrt(6 / 400)),
        (init.glorot_normal(), np.sqrt(2 / 400), np.inf),
        (init.he_uniform(), np.sqrt(2 / 100), np.sqrt(6 / 100)),
        (init.he_normal(), np.sqrt(2 / 100), np.inf),
    ],
)
def test_mean_spread_and_bound(initializer, std, bound):
    weights = draw(initializer)
    # 30 000 draws: standard errors of mean and (relative) spread are std/173 and about 1/245; four of them.
    assert abs(weights.mean()) < 4 * std / 173
    assert weights.std() == pytest.approx(std, rel=4 / 245)
    assert np.abs(weights).max() <= bound * (1 + 1e-6)  # the bound is rounded to float32


def test_orthogonal_and_identity():
    square = draw(init.orthogonal(1.3), (40, 40))
    np.testing.assert_allclose(square @ square.T, 1.3**2 * np.eye(40), atol=1e-5)  # float32 QR
    tall = draw(init.orthogonal(), (40, 20))
    np.testing.assert_allclose(tall.T @ tall, np.eye(20), atol=1e-5)
    np.testing.assert_array_equal(draw(init.identity(0.5), (7, 7)), 0.5 * np.eye(7))
    np.testing.assert_array_equal(draw(init.zeros(), (7,)), 0)
    np.testing.assert_array_equal(draw(init.constant(2.5), (7,)), 2.5)


def test_every_gate_is_orthogonal_by_itself():
    cell = rd.LSTMCell(3, 8, weight_hh_init=init.orthogonal(), key=jax.random.key(0))
    gates = np.split(np.asarray(cell.weight_hh), 4)
    for gate in gates:
        np.testing.assert_allclose(gate @ gate.T, np.eye(8), atol=1e-5)  # float32 QR
    assert np.abs(gates[0] - gates[1]).max() > 0.1


def test_forget_gate_bias_opens_only_the_forget_gate():
    cell = rd.LSTMCell(2, 3, bias_init=init.forget_gate_bias(1.0), key=jax.random.key(0))
    np.testing.assert_array_equal(cell.bias, [0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0])


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_chrono_spreads_memory_times(kind):
    """1 / (1 - σ(b)) = 1 + exp(b) = 1 + u with u uniform on (1, T - 1): mean memory 1 + T/2."""
    size, longest = 4000, 100.0
    bias = draw(init.chrono(longest, kind), ((4 if kind == "lstm" else 3) * size,))
    keep = bias[size : 2 * size]
    memory = 1 + np.exp(keep)
    assert memory.min() >= 2 - 1e-5  # rounding of log and exp in float32
    assert memory.max() <= longest * (1 + 1e-5)
    # The standard error of the mean of 4000 draws from a width of 98.
    assert memory.mean() == pytest.approx(1 + longest / 2, abs=4 * 98 / np.sqrt(12 * size))
    np.testing.assert_array_equal(bias[:size], -keep if kind == "lstm" else 0)
    np.testing.assert_array_equal(bias[2 * size :], 0)


def test_chrono_opens_the_gate_that_keeps_the_state(x64):
    """With nothing but the bias, a cell's state decays by 1 - 1/(1 + u) a step, in the LSTM and in the GRU."""
    zeros = init.zeros()
    key = jax.random.key(3)
    options = {"weight_ih_init": zeros, "weight_hh_init": zeros, "key": key}
    lstm = rd.LSTMCell(0, 50, bias_init=init.chrono(20.0), **options)
    gru = rd.GRUCell(0, 50, bias_init=init.chrono(20.0, "gru"), bias_n_init=zeros, **options)
    for cell, start, kept in (
        (lstm, (jnp.zeros(50), jnp.ones(50)), lambda s: s[1]),
        (gru, jnp.ones(50), lambda s: s),
    ):
        memory = 1 / (1 - np.asarray(kept(cell(start, jnp.zeros(0)))))
        assert memory.min() >= 2 - 1e-9
        assert memory.max() <= 20 + 1e-9
        assert np.ptp(memory) > 10


def test_a_cell_without_input_gets_an_empty_weight():
    for initializer in (init.glorot_normal(), init.he_uniform(), init.orthogonal(), init.gaussian()):
        assert draw(initializer, (4, 0)).shape == (4, 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: init.chrono(2.0), "max_time: expected more than 2 steps, and finitely many, got 2.0"),
        (lambda: init.chrono(9.0, "rnn"), "cell: expected 'lstm' or 'gru', got 'rnn'"),
        (lambda: draw(init.identity(), (3, 4)), r"identity: expected a square weight, got shape \(3, 4\)"),
        (
            lambda: draw(init.forget_gate_bias(), (6,)),
            r"forget_gate_bias: expected a bias of shape \(4H,\), got \(6,\)",
        ),
        (lambda: init.inverse_sqrt_uniform(0), "hidden_size: expected at least 1"),
    ],
)
def test_misuse(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_numbers_drawn_from_shared_programs_are_those_of_jax(dtype):
    """Of any shape, within a trace, and with a generator that does not count from the start, bit by bit."""
    key, other = jax.random.key(3), jax.random.key(3, impl="rbg")
    for shape in ((5, 7), (), (0, 4), (90, 3), (300, 400)):
        uniform = jax.random.uniform(key, shape, dtype, -0.3, 0.3)
        np.testing.assert_array_equal(uniform_numbers(key, shape, dtype, 0.3), uniform)
        np.testing.assert_array_equal(normal_numbers(key, shape, dtype), jax.random.normal(key, shape, dtype))
    for traced in (
        lambda: uniform_numbers(key, (5, 7), dtype, 0.3),
        lambda: uniform_numbers(other, (5, 7), dtype, 0.3),
    ):
        np.testing.assert_array_equal(jax.jit(traced)(), traced())
    expected = jax.random.uniform(other, (5, 7), dtype, -0.3, 0.3)
    np.testing.assert_array_equal(uniform_numbers(other, (5, 7), dtype, 0.3), expected)


def test_weights_of_another_shape_are_drawn_without_a_compilation():
    rd.GRUCell(3, 5, key=jax.random.key(0))
    with count_compilations() as count:
        rd.GRUCell(4, 6, key=jax.random.key(1))
    assert count() == 0
