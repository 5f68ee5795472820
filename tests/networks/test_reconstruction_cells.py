"""The clipped shallow and the dendritic cell: their equations, their regions, the box of the clipped one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks.random_cells import fill, normal

import rnndyn as rd

IN, H = 2, 3
# Sums of about ten products, in float64 rounded to 1e-16 each.
FLOAT64 = {"rtol": 0, "atol": 1e-13}
BUILD = {
    "clipped": lambda key: rd.ClippedShallowCell(IN, H, 5, key=key),
    "dendritic": lambda key: rd.DendriticCell(IN, H, 2, key=key),
}


@pytest.fixture(params=BUILD)
def cell(request, x64):
    return fill(BUILD[request.param], scale=0.5)


def relu(x):
    return np.maximum(x, 0)


def test_equations(x64):
    rng = np.random.default_rng(0)
    a, h, c, z, u = (rng.normal(size=s) for s in ((H,), (H,), (H, IN), (H,), (IN,)))
    w1, w2, h2 = rng.normal(size=(H, 5)), rng.normal(size=(5, H)), rng.normal(size=5)
    clipped = rd.ClippedShallowCell.from_weights(a, w1, h, w2, h2, weight_ih=c)
    expected = a * z + w1 @ (relu(w2 @ z + h2) - relu(w2 @ z)) + h + c @ u
    np.testing.assert_allclose(clipped(z, u), expected, **FLOAT64)
    w, alpha, theta = rng.normal(size=(H, H)), rng.normal(size=2), rng.normal(size=(2, H))
    dendritic = rd.DendriticCell.from_weights(a, w, h, alpha, theta, weight_ih=c)
    expected = a * z + w @ (alpha[0] * relu(z - theta[0]) + alpha[1] * relu(z - theta[1])) + h + c @ u
    np.testing.assert_allclose(dendritic(z, u), expected, **FLOAT64)


def test_one_branch_is_the_standard_form(x64):
    standard = fill(lambda key: rd.PiecewiseLinearCell(IN, H, key=key), scale=0.3)
    one = rd.DendriticCell.from_weights(
        standard.diagonal, standard.weight_hh, standard.bias, np.ones(1), np.zeros((1, H)), weight_ih=standard.weight_ih
    )
    inputs = normal(20, IN)
    np.testing.assert_allclose(rd.unroll(one, inputs), rd.unroll(standard, inputs), **FLOAT64)


def test_regions(cell):
    """The step is that of its region, whose matrix is the Jacobian, and the ReLU form is the step."""
    u = normal(IN, seed=5)
    form = cell.relu_form(u)
    for z in np.asarray(normal(10, H, seed=6)):
        step = cell(z, u)
        matrix, vector = cell.affine_map(cell.pattern(z), u)
        np.testing.assert_allclose(matrix @ z + vector, step, **FLOAT64)
        np.testing.assert_allclose(matrix, jax.jacfwd(cell)(jnp.asarray(z), u), **FLOAT64)
        inside = np.asarray(form.inner) @ z + np.asarray(form.inner_bias)
        assert inside.shape == (cell.num_relus,)
        np.testing.assert_allclose(form.linear @ z + form.outer @ relu(inside) + form.offset, step, **FLOAT64)
    with pytest.raises(ValueError, match="pattern"):
        cell.affine_map(np.ones(cell.num_relus + 1, bool), u)


def test_the_clipped_cell_stays_in_its_box(x64):
    cell = fill(BUILD["clipped"], scale=2.0)
    assert cell.state_bounds(jnp.zeros(IN)) is None
    cell = rd.ClippedShallowCell.from_weights(
        np.array([0.9, -0.6, 0.3]), cell.weight_hh, cell.bias, cell.hidden_weight, cell.hidden_bias,
        weight_ih=cell.weight_ih,
    )  # fmt: skip
    u = np.array([0.7, -1.2])
    lower, upper = (np.asarray(bound) for bound in cell.state_bounds(u))
    corners = np.array(np.meshgrid(*zip(lower, upper))).reshape(H, -1).T
    inner = np.random.default_rng(1).uniform(lower, upper, (200, H))
    after = np.asarray(jax.vmap(lambda z: cell(z, u))(np.concatenate([corners, inner])))
    assert ((after >= lower) & (after <= upper)).all()
    # From far away every state is drawn into it, but for what the slowest decay leaves: 0.9^300 of 1e3.
    far = jax.vmap(lambda z: rd.trajectory(rd.as_map(cell, u), z, 1, num_transient=300)[0])(1e3 * corners)
    assert ((np.asarray(far) >= lower - 1e-8) & (np.asarray(far) <= upper + 1e-8)).all()


def test_all_cycles_of_a_clipped_tent(x64):
    """z' = 1 - 1.9 |z| on [-1, 1] and -0.9 outside: two ramps, relu(a + h) - relu(a) each."""
    cell = rd.ClippedShallowCell.from_weights(
        np.zeros(1), np.array([[1.9, 1.9]]), np.array([-0.9]), np.array([[1.0], [1.0]]), np.array([1.0, -1.0])
    )
    z = np.linspace(-1.5, 1.5, 31)
    expected = np.maximum(1 - 1.9 * np.abs(z), -0.9)
    np.testing.assert_allclose([cell(np.array([v]), np.zeros(0))[0] for v in z], expected, **FLOAT64)
    found = rd.enumerate_cycles(cell, None, 3, progress=False)
    # The tent's fixed point is 1 / 2.9; the other would be at -1 / 0.9, where the map is clipped. Above slope 1 there
    # is one cycle of period 2, and above the golden mean there are two of period 3.
    assert found.counts == {1: 1, 2: 1, 3: 2}
    np.testing.assert_allclose(found[1].points.ravel(), [1 / 2.9], rtol=1e-12)
    assert found.proved


def test_bad_input(x64):
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="num_hidden"):
        rd.ClippedShallowCell(1, 2, 0, key=key)
    with pytest.raises(ValueError, match="num_branches"):
        rd.DendriticCell(1, 2, 0, key=key)
    with pytest.raises(ValueError, match="thresholds"):
        rd.DendriticCell.from_weights(np.ones(2), np.eye(2), np.ones(2), np.ones(3), np.ones((2, 2)))
    with pytest.raises(ValueError, match="hidden_bias"):
        rd.ClippedShallowCell.from_weights(np.ones(2), np.ones((2, 3)), np.ones(2), np.ones((3, 2)), np.ones(2))
