import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnndyn as rd


def cosine(x):
    return jnp.cos(x)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("solver", ["dense", "gmres"])
def test_reaches_the_dottie_number_to_the_last_digits(solver):
    result = rd.newton(cosine, jnp.array([0.3, 2.0]), linear_solver=solver)
    assert result.converged
    # The unique real solution of cos x = x; 4 eps for the last Newton step.
    np.testing.assert_allclose(result.point, 0.7390851332151607, rtol=0, atol=1e-15)


@pytest.mark.usefixtures("x64")
def test_convergence_is_quadratic_and_then_stops():
    # Six steps take an error of 0.4 below 1e-16 when it is squared every step.
    assert int(rd.newton(cosine, jnp.array([0.3])).num_steps) <= 6


@pytest.mark.usefixtures("x64")
def test_a_map_without_fixed_points_is_refused():
    result = rd.newton(lambda x: x + 1, jnp.array([0.5, 1.0]))
    assert not result.converged
    assert result.residual == 1.0


@pytest.mark.usefixtures("x64")
def test_a_slow_point_is_a_stall_not_a_solution():
    # |F(x) - x| = 0.01 + x^2 has its minimum 0.01 at 0.
    result = rd.newton(lambda x: x + 0.01 + x**2, jnp.array([0.7]))
    assert not result.converged
    assert result.stalled
    # Within sqrt(1e-3 * 0.01): steps that lower |G| by less than a thousandth do not count as progress.
    assert abs(result.point[0]) < 4e-3


@pytest.mark.usefixtures("x64")
def test_a_singular_root_is_reached_linearly():
    result = rd.newton(lambda x: x - x**3, jnp.array([0.9]))
    assert result.converged
    # x^3 at the rounding floor of 32 eps 2: x = (1.4e-14)^(1/3).
    assert abs(result.point[0]) < 3e-5


@pytest.mark.usefixtures("x64")
def test_a_continuum_is_reached_at_its_nearest_point():
    # Every (x, 0) is fixed; DG = diag(0, -1/2) is singular everywhere.
    result = rd.newton(lambda x: x * jnp.array([1.0, 0.5]), jnp.array([0.8, 0.6]))
    assert result.converged
    np.testing.assert_allclose(result.point, [0.8, 0.0], atol=1e-13)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_units_do_not_matter(scale):
    weight = jax.random.normal(jax.random.key(0), (6, 6)) * 1.2
    start = jax.random.uniform(jax.random.key(1), (6,)) * 2 - 1
    plain = rd.newton(lambda x: jnp.tanh(weight @ x + 0.1), start)
    scaled = rd.newton(lambda x: scale * jnp.tanh(weight @ (x / scale) + 0.1), scale * start)
    assert bool(plain.converged) == bool(scaled.converged)
    np.testing.assert_allclose(scaled.point / scale, plain.point, rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_iterates_stay_within_their_bounds():
    result = rd.newton(lambda x: x + 1, jnp.array([0.5]), bounds=(-2.0, 2.0))
    assert not result.converged
    assert -2 <= result.point[0] <= 2


def test_float32_in_float32_out():
    result = rd.newton(cosine, jnp.array([0.3], jnp.float32))
    assert result.point.dtype == jnp.float32
    assert result.converged
    # A few units in the last place of float32.
    np.testing.assert_allclose(result.point, 0.7390851, atol=3e-7)


@pytest.mark.usefixtures("x64")
def test_it_is_a_pure_function():
    starts = jnp.linspace(0.1, 1.5, 4)[:, None]
    batched = jax.jit(jax.vmap(lambda x: rd.newton(cosine, x)))(starts)
    assert batched.converged.all()
    # The implicit function theorem: d/da of x = a cos x is cos x / (1 + a sin x), here by forward differentiation
    # through the iteration, which carries the derivative of a quadratically convergent sequence.
    _, slope = jax.jvp(lambda a: rd.newton(lambda x: a * jnp.cos(x), jnp.array([0.5])).point, (1.0,), (1.0,))
    x = 0.7390851332151607
    np.testing.assert_allclose(slope, [np.cos(x) / (1 + np.sin(x))], rtol=1e-8)


def test_bad_input():
    with pytest.raises(ValueError, match="x0: expected floating-point"):
        rd.newton(cosine, np.array([1, 2]))
    with pytest.raises(ValueError, match="x0: expected one state"):
        rd.newton(cosine, np.zeros((2, 2)))
    with pytest.raises(ValueError, match="f: expected it to keep the shape"):
        rd.newton(lambda x: x[:1], np.zeros(2))
    with pytest.raises(ValueError, match="linear_solver"):
        rd.newton(cosine, np.zeros(2), linear_solver="magic")
    assert not rd.newton(cosine, np.array([np.nan])).converged


@pytest.mark.usefixtures("x64")
def test_a_refused_step_is_shortened_without_another_jacobian():
    # Plain Python: Newton's method for arctan(x) = 0 from 20, whose first step overshoots thirtyfold, cut to a trust
    # radius that a refusal quarters and a good step doubles; then up to three steps with the same slope, while each
    # halves the residual.
    x, radius, num_jacobians, num_trials = 20.0, 2000.0, 0, 0
    size = lambda x: abs(np.arctan(x))
    while size(x) > 1e-12:
        slope, num_jacobians = 1 / (1 + x**2), num_jacobians + 1
        while True:
            step, num_trials = np.clip(-np.arctan(x) / slope, -radius, radius), num_trials + 1
            quality = (size(x) - size(x + step)) / (slope * abs(step))
            radius = (
                0.25 * abs(step) if quality < 0.25 else radius * 2 ** (quality > 0.75 and abs(step) > 0.99 * radius)
            )
            if quality > 1e-4:
                break
        x += step
        for _ in range(3):
            moved = x - np.arctan(x) / slope
            if size(moved) >= 0.5 * size(x) or abs(moved - x) > abs(step):
                break
            x = moved
    assert num_trials == num_jacobians + 5
    result = rd.newton(lambda x: x + jnp.arctan(x), np.array([20.0]), scale=1000.0)
    assert result.converged
    assert abs(result.point[0]) < 1e-6
    assert result.num_steps <= num_jacobians
