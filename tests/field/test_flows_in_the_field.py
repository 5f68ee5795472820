"""Flows whose derivatives, periods or multipliers were wrong without a warning."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.linalg import expm

import rnndyn as rd


class Linear(eqx.Module):
    """dx/dt = A x."""

    matrix: np.ndarray

    def __call__(self, x):
        return self.matrix @ x


@eqx.filter_jit
def derivatives(f, x, direction):
    """Of the time map, by every transformation."""
    columns = jax.vmap(jax.linearize(f, x)[1])(jnp.eye(2)).T
    along = jax.jvp(f, (x,), (direction,))[1]
    return jax.jacfwd(f)(x), jax.jacrev(f)(x), columns, along, jax.grad(lambda x: f(x) @ direction)(x)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("time", [1.0, 5.0])
def test_a_sink_is_not_called_unstable(time):
    # At the equilibrium the state needs no steps at all; the derivative does: exp(A dt).
    f, x = rd.time_map(Linear(time * np.diag([-1.0, -5.0])), 1.0), jnp.zeros(2)
    exact, direction = np.diag(np.exp([-time, -5 * time])), np.array([0.3, -0.7])
    forward, reverse, columns, along, gradient = derivatives(f, x, direction)
    # Relative to each column: 1e-9 per step, some tens of steps.
    for found in (forward, reverse, columns):
        np.testing.assert_allclose(np.diag(found), np.diag(exact), rtol=1e-7)
        np.testing.assert_array_equal(found, np.diag(np.diag(found)))
    np.testing.assert_allclose(along, exact @ direction, rtol=1e-7)
    np.testing.assert_allclose(gradient, exact @ direction, rtol=1e-7)


@pytest.mark.usefixtures("x64")
def test_what_the_field_depends_on_has_derivatives_in_both_modes():
    # dx/dt = u - p x from 1: x(1) = u/p + (1 - u/p) e^-p.
    def end(p, u):
        return rd.time_map(lambda x, u: u - p * x, 1.0)(jnp.ones(1), u)[0]

    p, u = 2.0, jnp.array([3.0])
    by_p = -3 / 4 + 3 / 4 * np.exp(-2.0) - (1 - 1.5) * np.exp(-2.0)
    by_u = (1 - np.exp(-2.0)) / 2
    np.testing.assert_allclose(jax.jit(jax.grad(end))(p, u), by_p, rtol=1e-7)
    np.testing.assert_allclose(jax.jit(jax.jacfwd(end))(p, u), by_p, rtol=1e-7)
    np.testing.assert_allclose(jax.jit(jax.grad(end, argnums=1))(p, u), [by_u], rtol=1e-7)


@pytest.mark.usefixtures("x64")
def test_a_stiff_flow_is_followed_without_asking():
    # A slow and a fast direction that are not those of the axes; explicit steps would have to be shorter than 3e-6.
    turn = np.array([[0.8, -0.6], [0.6, 0.8]])
    matrix = turn @ np.diag([-1.0, -1e6]) @ turn.T
    f, x = rd.time_map(Linear(matrix), 1.0), jnp.array([1.0, 2.0])
    np.testing.assert_allclose(f(x), expm(matrix) @ x, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(jax.jacfwd(f))(x), expm(matrix), atol=1e-7)


@pytest.mark.slow
def test_lorenz_has_stable_equilibria_at_rho_20():
    def lorenz(x):
        return jnp.stack([10 * (x[1] - x[0]), x[0] * (20 - x[2]) - x[1], x[0] * x[1] - 8 / 3 * x[2]])

    wing = np.sqrt(8 / 3 * 19)
    found = rd.find_fixed_points(rd.time_map(lorenz, 0.5), np.array([[wing, wing, 19.0]]) + 0.01)
    np.testing.assert_allclose(found.points, [[wing, wing, 19.0]], atol=1e-7)
    jacobian = np.array([[-10, 10, 0], [1, -1, -wing], [wing, wing, -8 / 3]])
    exact = np.linalg.eigvals(expm(0.5 * jacobian))
    np.testing.assert_allclose(np.sort_complex(found.multipliers[0]), np.sort_complex(exact), atol=1e-8)
    assert found.is_stable.all()


class Planar(eqx.Module):
    """Predator and prey (`is_prey` 1), or van der Pol's oscillator (0), so that both share their compilations."""

    is_prey: np.ndarray
    mu: np.ndarray

    def __call__(self, x):
        n, p = x
        eaten = n * p / jnp.where(self.is_prey > 0, n + 1, 1.0)
        prey = jnp.stack([0.8 * n * (1 - n / 15) - 2.5 * eaten, 1.25 * eaten - 0.4 * p])
        oscillator = jnp.stack([p, self.mu * (1 - n**2) * p - n])
        return jnp.where(self.is_prey > 0, prey, oscillator)


def van_der_pol(mu):
    return Planar(np.array(0.0), np.array(mu))


def test_a_population_that_nearly_dies_out():
    orbit = rd.find_limit_cycle(Planar(np.array(1.0), np.array(0.0)), np.array([1.0, 0.5]))
    # SciPy in logarithms of both populations: solve_ivp(DOP853, rtol 1e-13), period from a Poincare section.
    assert orbit.converged
    assert orbit.period == pytest.approx(83.58265995, abs=2e-8)
    assert orbit.multipliers[0].real == pytest.approx(1.6708e-7, rel=1e-4)
    assert abs(orbit.trivial_multiplier - 1) < 1e-8


def test_a_stiff_oscillator_is_not_an_equilibrium_and_its_multiplier_is_no_rounding_error():
    mu = 10.0
    orbit = rd.find_limit_cycle(van_der_pol(mu), np.array([2.0, 0.0]))
    # Liouville: ln of the product of the multipliers is the integral of the divergence, here by SciPy along the orbit.
    field = lambda t, y: [y[1], mu * (1 - y[0] ** 2) * y[1] - y[0], mu * (1 - y[0] ** 2)]
    end = solve_ivp(field, (0, orbit.period), [*orbit.points[0], 0.0], method="Radau", rtol=1e-10, atol=1e-12).y[:, -1]
    np.testing.assert_allclose(end[:2], orbit.points[0], atol=1e-6)
    assert orbit.log_multipliers[0].real == pytest.approx(end[2], rel=1e-7)
    assert np.log10(abs(orbit.multipliers[0])) == pytest.approx(np.log10(3.7e-136), abs=0.01)
    for segments in (3, 16):
        again = rd.find_limit_cycle(van_der_pol(mu), np.array([2.0, 0.0]), num_segments=segments)
        assert again.log_multipliers[0].real == pytest.approx(end[2], rel=1e-7)


@pytest.mark.slow
def test_a_very_stiff_oscillator_has_a_multiplier_below_every_number():
    orbit = rd.find_limit_cycle(van_der_pol(100.0), np.array([2.0, 0.0]))
    assert orbit.period == pytest.approx(162.83707, abs=1e-5)
    assert orbit.multipliers[0] == 0
    assert orbit.is_stable
    field = lambda t, y: [y[1], 100 * (1 - y[0] ** 2) * y[1] - y[0], 100 * (1 - y[0] ** 2)]
    end = solve_ivp(field, (0, orbit.period), [*orbit.points[0], 0.0], method="Radau", rtol=1e-10, atol=1e-12).y[:, -1]
    assert orbit.log_multipliers[0].real == pytest.approx(end[2], rel=1e-6)
    assert orbit.exponents[0].real == pytest.approx(end[2] / orbit.period, rel=1e-6)
    assert "e-12594" in str(orbit)


@pytest.mark.slow
def test_a_continued_time_map_has_the_bifurcations_of_its_flow():
    """FitzHugh-Nagumo: v' = v - v^3/3 - w + I, w' = a (v + b - c w), whose equilibrium is unique.

    It is a focus at the edge where the trace 1 - v^2 - a c vanishes: v = -+sqrt(1 - a c), I = v^3/3 - v + (v + b)/c.
    """
    a, b, c = 0.08, 1.0, 0.8

    def flow(x, current):
        v, w = x
        return jnp.stack([v - v**3 / 3 - w + current, a * (v + b - c * w)])

    def equilibrium(current):
        roots = np.roots([-1 / 3, 0, 1 - 1 / c, current - b / c])
        return float(roots[np.argmin(abs(roots.imag))].real)

    v = equilibrium(0.0)
    branch = rd.continue_fixed_points(rd.time_map(flow, 1.0), np.array([v, (v + b) / c]), 0.0, (0.0, 5.0))
    edge = np.array([-1, 1]) * np.sqrt(1 - a * c)
    assert [event.kind for event in branch.bifurcations] == ["neimark-sacker"] * 2
    # Nothing at 4.5914, where a branch point was invented.
    found = [event.parameter for event in branch.bifurcations]
    np.testing.assert_allclose(found, edge**3 / 3 - edge + (edge + b) / c, atol=1e-7)
    for current, point, multipliers in zip(branch.parameters, branch.points, branch.multipliers):
        v = equilibrium(current)
        np.testing.assert_allclose(point, [v, (v + b) / c], atol=1e-8)
        exact = np.linalg.eigvals(expm(np.array([[1 - v**2, -1], [a, -a * c]])))
        np.testing.assert_allclose(np.sort_complex(multipliers), np.sort_complex(exact), atol=1e-8)
