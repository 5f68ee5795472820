"""What one network compiled serves the next: another network of its structure, closure, length, or number of states."""

import jax.numpy as jnp
import numpy as np
import pytest
from compilation_counts import count_compilations

import rnndyn as rd

pytestmark = pytest.mark.filterwarnings("ignore")  # incomplete searches warn; here only compilations count

STATES = 0.5 * np.random.default_rng(0).standard_normal((40, 2))


def weights(seed):
    """A contraction with one fixed point near 0: what is found, and so what is compiled, is the same for every seed."""
    rng = np.random.default_rng(seed)
    return 0.3 * rng.standard_normal((2, 2)), 0.1 * rng.standard_normal(2)


def network(seed):
    weight, bias = weights(seed)
    return rd.as_map(rd.VanillaCell.from_weights(np.zeros((2, 1)), weight, bias))


def closure(seed):
    weight, bias = weights(seed)
    return lambda x: jnp.tanh(weight @ x + bias)


def with_parameter(f):
    return lambda x, p: f(x) + p


DRIVERS = {
    "find_fixed_points": lambda f, more: rd.find_fixed_points(f, STATES[: 33 + more], progress=False),
    "find_slow_points": lambda f, more: rd.find_slow_points(f, STATES[: 33 + more], progress=False),
    "find_cycles": lambda f, more: rd.find_cycles(f, STATES[: 33 + more], 2, progress=False),
    "classify_attractor": lambda f, more: rd.classify_attractor(f, STATES[more]),
    "find_attractors": lambda f, more: rd.find_attractors(f, STATES[: 33 + more], progress=False),
    "certify_fixed_points": lambda f, more: rd.certify_fixed_points(f, STATES[: 33 + more], progress=False),
    "enumerate_fixed_points": lambda f, more: rd.enumerate_fixed_points(f, -np.ones(2), np.ones(2), progress=False),
    "find_invariant_circle": lambda f, more: rd.find_invariant_circle(f, STATES[more], progress=False),
    "continue_fixed_points": lambda f, more: rd.continue_fixed_points(
        with_parameter(f), rd.trajectory(f, STATES[0], 1, num_transient=200)[0], 0.0, (0.0, 0.2 + 0.01 * more)
    ),
    "lyapunov_spectrum": lambda f, more: (
        rd.lyapunov_spectrum(f, STATES[0], 300 + more, num_transient=100 + more).exponents
    ),
}


@pytest.mark.parametrize("name", DRIVERS)
def test_a_second_one_compiles_nothing(name):
    call = DRIVERS[name]
    for make in (network, closure):
        call(make(1), 0)
        with count_compilations() as count:
            call(make(2), 0)
        assert count() == 0, f"a second {make.__name__} compiled {count()} programs"
    with count_compilations() as count:
        call(closure(3), 5)
    assert count() == 0, f"another length or number of states compiled {count()} programs"


PURE = {
    "trajectory": lambda f, x: rd.trajectory(f, x, 3)[-1],
    "linearize": lambda f, x: np.abs(rd.linearize(f, x).multipliers),
    "lyapunov_spectrum": lambda f, x: rd.lyapunov_spectrum(f, x, 200).exponents,
    "newton": lambda f, x: rd.newton(f, x).point,
    "implicit_fixed_point": rd.implicit_fixed_point,
    "adjoints": lambda f, x: rd.adjoints(f, x, None, lambda xs: jnp.sum(xs[-1]), num_steps=5).growth_rate,
    "find_fixed_points": lambda f, x: rd.find_fixed_points(f, np.float64(x)[None], progress=False).points,
    "classify_attractor": lambda f, x: rd.classify_attractor(f, np.float64(x)).points,
}


def test_no_order_of_calls_changes_a_number():
    # Every pair of functions, one of them twice around the other, on one closure over float64 NumPy arrays; the right
    # numbers are those of a fresh closure for each call.
    x = np.array([0.1, -0.2], np.float32)
    alone = {name: np.asarray(call(closure(4), x)) for name, call in PURE.items()}
    for first, one in PURE.items():
        for second, other in PURE.items():
            f = closure(4)
            for name, call in ((first, one), (second, other), (first, one)):
                np.testing.assert_array_equal(np.asarray(call(f, x)), alone[name], err_msg=f"{first}, then {second}")
