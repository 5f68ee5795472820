"""The three forms of the piecewise-linear cell, and what an exact solver asks of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks.random_cells import fill, normal

import rnndyn as rd

IN, H = 2, 4
FORMS = {
    "standard": {},
    "almost-linear": {"num_rectified": 2},
    "linear": {"num_rectified": 0},
    "shallow": {"num_hidden": 9},
}
# Sums of about ten products, in float64 rounded to 1e-16 each.
FLOAT64 = {"rtol": 0, "atol": 1e-14}


@pytest.fixture(params=FORMS)
def cell(request, x64):
    return fill(lambda key: rd.PiecewiseLinearCell(IN, H, **FORMS[request.param], key=key), scale=0.4)


def relu(x):
    return np.maximum(x, 0)


def test_forms_follow_their_equations(x64):
    rng = np.random.default_rng(0)
    a, w, h, c, z, u = (rng.normal(size=s) for s in ((H,), (H, H), (H,), (H, IN), (H,), (IN,)))
    w1, w2, h2 = rng.normal(size=(H, 9)), rng.normal(size=(9, H)), rng.normal(size=9)
    standard = rd.PiecewiseLinearCell.from_weights(a, w, h, weight_ih=c)
    np.testing.assert_allclose(standard(z, u), a * z + w @ relu(z) + h + c @ u, **FLOAT64)
    almost = rd.PiecewiseLinearCell.from_weights(a, w, h, weight_ih=c, num_rectified=1)
    np.testing.assert_allclose(almost(z, u), a * z + w @ np.append(z[:-1], relu(z[-1])) + h + c @ u, **FLOAT64)
    shallow = rd.PiecewiseLinearCell.from_weights(a, w1, h, weight_ih=c, hidden_weight=w2, hidden_bias=h2)
    np.testing.assert_allclose(shallow(z, u), a * z + w1 @ relu(w2 @ z + h2) + h + c @ u, **FLOAT64)


def test_forms_agree_where_they_coincide(x64):
    standard = fill(lambda key: rd.PiecewiseLinearCell(IN, H, key=key), scale=0.3)
    weights = (standard.diagonal, standard.weight_hh, standard.bias)
    shared = {"weight_ih": standard.weight_ih}
    shallow = rd.PiecewiseLinearCell.from_weights(*weights, **shared, hidden_weight=np.eye(H), hidden_bias=np.zeros(H))
    almost = rd.PiecewiseLinearCell.from_weights(*weights, **shared, num_rectified=H)
    inputs = normal(40, IN)
    expected = rd.unroll(standard, inputs)
    np.testing.assert_allclose(rd.unroll(shallow, inputs), expected, **FLOAT64)
    np.testing.assert_allclose(rd.unroll(almost, inputs), expected, **FLOAT64)
    vanilla = fill(lambda key: rd.VanillaCell(IN, H, activation="relu", key=key), scale=0.3)
    u = inputs[0]
    as_shallow = rd.PiecewiseLinearCell.from_weights(
        np.zeros(H), np.eye(H), np.zeros(H),
        hidden_weight=vanilla.weight_hh, hidden_bias=vanilla.weight_ih @ u + vanilla.bias,
    )  # fmt: skip
    np.testing.assert_allclose(
        rd.unroll(as_shallow, None, num_steps=40), rd.unroll(vanilla, u, num_steps=40), **FLOAT64
    )


def test_the_affine_map_of_a_region_is_the_cell_in_it(cell):
    rng = np.random.default_rng(4)
    jacobian = jax.jit(jax.jacobian(lambda z, u: cell(z, u)))
    for _ in range(30):
        z, u = jnp.asarray(rng.normal(size=H)), jnp.asarray(rng.normal(size=IN))
        pattern = cell.pattern(z)
        assert pattern.shape == (cell.num_relus,)
        matrix, vector = cell.affine_map(pattern, u)
        np.testing.assert_allclose(matrix @ z + vector, cell(z, u), **FLOAT64)
        np.testing.assert_allclose(matrix, jacobian(z, u), **FLOAT64)


def test_the_relu_form_is_the_cell(cell):
    rng = np.random.default_rng(5)
    u = jnp.asarray(rng.normal(size=IN))
    form = cell.relu_form(u)
    for z in jnp.asarray(rng.normal(size=(20, H))):
        expected = form.linear @ z + form.outer @ relu(form.inner @ z + form.inner_bias) + form.offset
        np.testing.assert_allclose(cell(z, u), expected, **FLOAT64)
        np.testing.assert_array_equal(cell.pattern(z), form.inner @ z + form.inner_bias > 0)


def test_a_fixed_point_solved_in_its_region_is_one_of_the_cell(x64):
    """A known one: with A = 0.5, W off-diagonal and h chosen so that z* = (1, -2) is fixed."""
    z = np.array([1.0, -2.0])
    a, w = np.array([0.5, 0.5]), np.array([[0.0, 0.3], [-0.7, 0.0]])
    cell = rd.PiecewiseLinearCell.from_weights(a, w, z - a * z - w @ relu(z))
    matrix, vector = cell.affine_map(np.array([True, False]), jnp.zeros(0))
    found = np.linalg.solve(np.eye(2) - matrix, vector)
    np.testing.assert_allclose(found, z, **FLOAT64)
    np.testing.assert_array_equal(cell.pattern(found), [True, False])


def test_affine_maps_of_all_regions_by_vmap(cell):
    num = min(cell.num_relus, 4)
    patterns = np.zeros((2**num, cell.num_relus), bool)
    patterns[:, :num] = (np.arange(2**num)[:, None] >> np.arange(num)) & 1
    matrices, vectors = jax.vmap(cell.affine_map, (0, None))(patterns, jnp.ones(IN))
    matrix, vector = cell.affine_map(patterns[-1], jnp.ones(IN))
    np.testing.assert_allclose(matrices[-1], matrix, **FLOAT64)
    np.testing.assert_allclose(vectors[-1], vector, **FLOAT64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_rectified": 5}, "num_rectified: expected 0 to hidden_size = 4, got 5"),
        ({"num_hidden": 0}, "num_hidden: expected at least 1"),
        ({"num_hidden": 3, "num_rectified": 2}, "num_rectified: the shallow form"),
        ({"hidden_bias_init": jax.nn.initializers.zeros}, "only the shallow form"),
    ],
)
def test_forms_that_do_not_exist(options, message):
    with pytest.raises(ValueError, match=message):
        rd.PiecewiseLinearCell(IN, H, **options, key=jax.random.key(0))


def test_wrong_weights_and_patterns(cell):
    with pytest.raises(ValueError, match="pattern: expected shape"):
        cell.affine_map(np.zeros(cell.num_relus + 1, bool), jnp.zeros(IN))
    with pytest.raises(ValueError, match="hidden_weight, hidden_bias: the shallow form needs both"):
        rd.PiecewiseLinearCell.from_weights(np.zeros(H), np.eye(H), np.zeros(H), hidden_weight=np.eye(H))
    with pytest.raises(ValueError, match=r"diagonal: expected the diagonal of A, shape \(H,\), got shape \(4, 4\)"):
        rd.PiecewiseLinearCell.from_weights(np.eye(H), np.eye(H), np.zeros(H))
    with pytest.raises(ValueError, match=r"weight_hh: expected shape \(4, 4\), got \(4, 3\)"):
        rd.PiecewiseLinearCell.from_weights(np.zeros(H), np.zeros((H, 3)), np.zeros(H))
