"""Contraction of networks whose exponents are measured in plain NumPy, and refusals where an input separates states."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

import rnndyn as rd


class Driven(eqx.Module):
    """x' = tanh(W x + V u)."""

    weight: np.ndarray
    into: np.ndarray

    def __call__(self, x, u):
        return jnp.tanh(jnp.asarray(self.weight) @ x + jnp.asarray(self.into) @ u)


def network(gain, size=20):
    rng = np.random.default_rng(1)
    return Driven(rng.normal(size=(size, size)) * gain / np.sqrt(size), 0.3 * rng.normal(size=(size, 2)))


def conditional_exponent(net, bound, num_steps=4000):
    rng = np.random.default_rng(5)
    x, v, total = np.zeros(len(net.weight)), rng.normal(size=len(net.weight)), 0.0
    for t in range(num_steps + 200):
        x = np.tanh(net.weight @ x + net.into @ rng.uniform(-bound, bound, 2))
        v = (1 - x * x) * (net.weight @ v)
        total += np.log(np.linalg.norm(v)) if t >= 200 else 0.0
        v /= np.linalg.norm(v)
    return total / num_steps


@pytest.fixture(scope="module")
def weak():
    net = network(0.5)
    return net, rd.prove_contraction(net, -0.2 * np.ones(2), 0.2 * np.ones(2), state=np.zeros(20))


def test_a_weak_network_contracts_at_a_rate_above_its_exponent(weak):
    net, proof = weak
    assert proof.proved
    assert conditional_exponent(net, 0.2) < np.log(proof.rate) < 0


def test_in_the_metric_no_pair_of_states_fails(weak):
    net, proof = weak
    rng = np.random.default_rng(0)
    x, y = proof.center + proof.reach * rng.uniform(-1, 1, (2, 500, 20))
    if proof.axes.shape[1]:
        directions = rng.normal(size=(2, 500, 20))
        directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
        x, y = proof.center + directions @ proof.axes.T
    u = rng.uniform(-0.2, 0.2, (500, 2))

    def step(x):
        return np.tanh(x @ net.weight.T + u @ net.into.T)

    def norm(d):
        return np.sqrt(np.einsum("ki,ij,kj->k", d, proof.metric, d))

    assert np.all(norm(step(x) - step(y)) <= proof.rate * norm(x - y) * (1 + 1e-9))


def test_a_chaotic_network_is_refuted_by_an_input():
    net = network(3.0)
    proof = rd.prove_contraction(net, -0.1 * np.ones(2), 0.1 * np.ones(2), state=np.full(20, 0.1))
    assert not proof.proved
    assert np.all(np.abs(proof.counterexample) <= 0.1)
    assert proof.counterexample.shape == (2,)


def test_a_single_unit_has_the_rate_of_its_weight():
    # |tanh'| <= 1: the best rate is the weight itself.
    net = Driven(np.array([[0.7]]), np.zeros((1, 1)))
    proof = rd.prove_contraction(net, np.zeros(1), np.zeros(1), state=np.zeros(1))
    assert proof.proved
    assert 0.7 <= proof.rate < 0.72


def test_a_state_that_is_kept_and_left_refutes_contraction():
    # x' = tanh(1.5 x + u) keeps x = 0 at u = 0, where the slope is 1.5. Trajectories that start beside it leave for the
    # stable x = +-0.86, where they contract, so that following them finds no counterexample.
    net = Driven(np.array([[1.5]]), np.ones((1, 1)))
    proof = rd.prove_contraction(net, -1e-3 * np.ones(1), 1e-3 * np.ones(1), state=np.zeros(1))
    assert not proof.proved
    assert "multiplier of modulus 1.5" in proof.reason
    # A kept state and its slope at the input that is named, by bisection of x = tanh(1.5 x + u).
    low, high = -0.3, 0.3
    for _ in range(100):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if np.tanh(1.5 * middle + proof.counterexample[0]) > middle else (middle, high)
    assert 1.5 * (1 - np.tanh(1.5 * low + proof.counterexample[0]) ** 2) > 1.4
    # Beside the stable state the same inputs do contract.
    assert rd.prove_contraction(net, -1e-3 * np.ones(1), 1e-3 * np.ones(1), state=np.array([0.8])).proved


def test_inputs_that_are_no_box_are_named():
    with pytest.raises(ValueError, match="lower, upper"):
        rd.prove_contraction(network(0.5), np.ones(2), -np.ones(2), state=np.zeros(20))
    with pytest.raises(ValueError, match="lower: expected numbers, got NaN"):
        rd.prove_contraction(network(0.5), np.array([np.nan, 0]), np.ones(2), state=np.zeros(20))
