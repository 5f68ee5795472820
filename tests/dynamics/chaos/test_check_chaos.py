"""The second checker accepts what was proved, and refuses what is claimed beyond it."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

import rnndyn as rd

# The chaotic pair of neurons of Pasemann (2002, Complex dynamics and the structure of small neural networks), with
# logistic units y = (1 + x) / 2 written as tanh units.
WEIGHT = np.array([[-5.0, 1.5], [-1.5, 0.0]])
BIAS = np.array([-4.5, 0.0])


class Tanh(eqx.Module):
    """x' = tanh(W x + b)."""

    weight: np.ndarray
    bias: np.ndarray

    def __call__(self, x):
        return jnp.tanh(jnp.asarray(self.weight) @ x + jnp.asarray(self.bias))


@pytest.fixture(scope="module")
def proof():
    x, orbit = np.array([0.1, -0.2]), []
    for _ in range(3500):
        x = np.tanh(WEIGHT @ x + BIAS)
        orbit.append(x)
    found = rd.prove_chaos(Tanh(WEIGHT, BIAS), np.array(orbit[500:]), max_loops=1)
    assert found.proved, found.reason
    return found


def test_what_was_proved_is_accepted(proof):
    check = rd.check_chaos(proof, WEIGHT, BIAS)
    assert check.accepted, str(check)


# An exponent is claimed of the networks in `test_learned_chaos.py`, with growths; here a bound of zero is made better.
CLAIMS = [("expansions", 1), ("contractions", -1), ("entropy_bound", 1), ("exponent_bound", 1)]


def better_by_a_billionth(proof, field, sign, edge=None):
    claimed = getattr(proof, field)
    step = 1e-9 * sign * (1 if edge is None else np.arange(len(claimed)) == edge)
    return eqx.tree_at(lambda p: getattr(p, field), proof, claimed + step)


@pytest.mark.parametrize(("field", "sign"), CLAIMS)
def test_claims_that_are_better_by_a_billionth_are_refused(proof, field, sign):
    for edge in (None,) if field.endswith("bound") else range(len(proof.edges)):
        check = rd.check_chaos(better_by_a_billionth(proof, field, sign, edge), WEIGHT, BIAS)
        assert not check.accepted
        assert len(check.failures) == 1
        assert field.removesuffix("s").removesuffix("_bound") in check.failures[0]


def test_the_proof_of_another_network_is_refused(proof):
    assert not rd.check_chaos(proof, WEIGHT * 1.05, BIAS).accepted


def test_nothing_is_not_checked(proof):
    nothing = rd.prove_chaos(Tanh(0.1 * WEIGHT, BIAS), np.random.default_rng(0).normal(size=(50, 2)) * 1e-3 - 0.9)
    with pytest.raises(ValueError, match="proof"):
        rd.check_chaos(nothing, WEIGHT, BIAS)
