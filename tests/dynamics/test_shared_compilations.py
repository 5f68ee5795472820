"""What one network compiled serves the next: another network of its structure, closure, length, or number of states."""

import resource
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from compilation_counts import count_compilations

import rnndyn as rd
from rnndyn._programs.compiling import num_maps

pytestmark = pytest.mark.filterwarnings("ignore")  # incomplete searches warn; here only compilations count

STATES = 0.5 * np.random.default_rng(0).standard_normal((40, 2))


def weights(seed):
    """A contraction with one fixed point near 0: what is found, and so what is compiled, is the same for every seed."""
    rng = np.random.default_rng(seed)
    weight, bias = 0.3 * rng.standard_normal((2, 2)), 0.1 * rng.standard_normal(2)
    # One draw in fifty is no contraction, and a few of them have more fixed points or a bifurcation.
    return weight * min(1, 0.9 / np.linalg.norm(weight, 2)), bias


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
    "trajectory": lambda f, more: rd.trajectory(f, STATES[0], 30 + more, num_transient=more),
    "driven trajectory": lambda f, more: rd.trajectory(
        lambda x, u: f(x) + u, STATES[0], 30 + more, np.ones((30 + 2 * more, 2)), num_transient=more
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


@pytest.mark.slow
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


def live_through(num_networks):
    """CPU seconds, memory maps, MB and compilations after every network; modules and closures take turns."""
    rows = []
    with count_compilations() as count:
        for seed in range(num_networks):
            f, begin = (network, closure)[seed % 2](100 + seed), time.process_time()
            for call in DRIVERS.values():
                call(f, 0)
            rows.append((time.process_time() - begin, num_maps(), resident_megabytes(), count()))
    return np.array(rows).T


def resident_megabytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


@pytest.mark.skipif(num_maps() == 0, reason="this system does not count memory maps")
def test_thirty_networks_leave_the_process_as_it_was():
    _, maps, _, compilations = live_through(30)
    # Modules and closures are met in the first two; a tenth is for what an unusual network takes.
    assert compilations[-1] == compilations[9]
    # A new arena of the allocator is a map or two.
    assert maps[-1] <= maps[9] + 20


@pytest.mark.slow
@pytest.mark.skipif(num_maps() == 0, reason="this system does not count memory maps")
def test_a_thousand_networks_leave_the_process_as_it_was():
    seconds, maps, megabytes, compilations = live_through(1000)
    assert compilations[-1] == compilations[49]
    assert maps[-1] <= maps[49] + 100
    assert megabytes[-1] <= megabytes[49] + 100  # an array of 100 kB kept for each network would show
    assert np.median(seconds[-100:]) <= 1.3 * np.median(seconds[50:150])  # other load changes CPU seconds by a tenth


@pytest.mark.slow
@pytest.mark.skipif(num_maps() == 0, reason="this system does not count memory maps")
def test_structures_that_differ_do_not_pile_up():
    maps = []
    for size in range(2, 42):
        rng = np.random.default_rng(size)
        weight = 0.3 * rng.standard_normal((size, size)) / np.sqrt(size)
        f, x = (lambda x, w=weight: jnp.tanh(w @ x)), 0.1 * rng.standard_normal(size)
        rd.find_fixed_points(f, x[None], progress=False)
        rd.lyapunov_spectrum(f, x, 200)
        rd.linearize(f, np.zeros(size))
        rd.certify_fixed_point(f, np.zeros(size))
        maps.append(num_maps())
    # Without a bound every size adds some 500. With it what is kept is that of the last fifteen or so; JAX itself keeps
    # the single operations, two maps each and 45 of them for every size.
    assert maps[-1] - maps[20] <= 20 * 150
