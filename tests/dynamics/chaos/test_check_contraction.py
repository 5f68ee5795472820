"""The second checker accepts proofs of contraction, and refuses what is claimed beyond them."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnndyn as rd


class Leaky(eqx.Module):
    """x' = (1 - a) x + a tanh(W x + V u + b)."""

    weight: np.ndarray
    into: np.ndarray
    bias: np.ndarray
    leak: float

    def __call__(self, x, u):
        drive = jnp.asarray(self.weight) @ x + jnp.asarray(self.into) @ u + jnp.asarray(self.bias)
        return (1 - self.leak) * x + self.leak * jnp.tanh(drive)

    @property
    def numbers(self):
        return self.weight, self.into, self.bias, self.leak


def network(gain, leak=1.0, size=12):
    rng = np.random.default_rng(1)
    weight = rng.normal(size=(size, size)) * gain / np.sqrt(size)
    return Leaky(weight, 0.3 * rng.normal(size=(size, 2)), 0.1 * rng.normal(size=size), leak)


def proof_of(net, bound=0.1):
    proof = rd.prove_contraction(net, -bound * np.ones(2), bound * np.ones(2), state=np.zeros(len(net.bias)))
    assert proof.proved, proof.reason
    return proof


@pytest.fixture(scope="module")
def proof():
    found = proof_of(network(0.7))
    assert found.core is not None
    return found


def test_what_was_proved_is_accepted(proof):
    check = rd.check_contraction(proof, *network(0.7).numbers)
    assert check.accepted, str(check)


def test_a_leaky_network_is_accepted():
    net = network(0.5, leak=0.5)
    check = rd.check_contraction(proof_of(net), *net.numbers)
    assert check.accepted, str(check)


@pytest.mark.parametrize("part", ["whole", "core"])
def test_a_rate_that_is_tighter_by_a_billionth_is_refused(proof, part):
    def rate(p):
        return p.rate if part == "whole" else p.core.rate

    better = eqx.tree_at(rate, proof, rate(proof) - 1e-9)
    check = rd.check_contraction(better, *network(0.7).numbers)
    assert not check.accepted
    assert len(check.failures) == 1
    assert "the matrix inequality of the rate" in check.failures[0]
    assert check.failures[0].startswith("core") == (part == "core")


@pytest.mark.parametrize(
    ("where", "change", "words"),
    [
        (lambda p: p.reach, lambda x: 0.5 * x, "box is not shown to be kept"),
        (lambda p: p.core.radius, lambda x: 0.5 * x, "it is left by"),
        (lambda p: p.core.radius, lambda x: 3.0 * x, "to lie where slopes"),
        (lambda p: p.metric, lambda x: -x, "positive definite"),
        (lambda p: p.multipliers, lambda x: -x, "multipliers"),
        (lambda p: p.upper, lambda x: 3.0 * x, "matrix inequality"),
    ],
)
def test_the_inequality_that_fails_is_named(proof, where, change, words):
    check = rd.check_contraction(eqx.tree_at(where, proof, change(where(proof))), *network(0.7).numbers)
    assert any(words in failure for failure in check.failures), str(check)


def test_the_proof_of_another_network_is_refused(proof):
    assert not rd.check_contraction(proof, *network(0.72).numbers).accepted


def test_what_cannot_be_checked_is_named(proof):
    weight, into, bias, _ = network(0.7).numbers
    with pytest.raises(ValueError, match="weight, input_weight, bias"):
        rd.check_contraction(proof, weight, into[:, :1], bias)
    net = network(3.0)
    nothing = rd.prove_contraction(net, -np.ones(2), np.ones(2), state=np.full(12, 0.1))
    with pytest.raises(ValueError, match="proof"):
        rd.check_contraction(nothing, *net.numbers)


def test_the_weights_of_a_cell_are_what_is_checked():
    # Float32 weights are exact in float64, in which proofs are made.
    cell = rd.VanillaCell(1, 6, key=jax.random.key(0))
    scaled = rd.VanillaCell.from_weights(cell.weight_ih, 0.5 * cell.weight_hh, cell.bias)
    g = rd.as_driven_map(scaled)
    proof = rd.prove_contraction(g, -np.ones(1), np.ones(1), state=np.zeros(6))
    assert rd.check_contraction(proof, scaled.weight_hh, scaled.weight_ih, scaled.bias).accepted
