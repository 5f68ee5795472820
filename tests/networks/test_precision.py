"""The one promotion rule, as a matrix, and float64 that stays float64 (`rnndyn.networks.precision`)."""

import equinox as eqx
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from networks.random_cells import fill

import rnndyn as rd

DTYPES = {
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float32": np.float32,
    "float64": np.float64,
    "int32": np.int32,
}
# Two dozen roundings of numbers of order one.
TOLERANCE = {"float16": 1e-2, "bfloat16": 1e-1, "float32": 1e-6, "float64": 1e-14}
W_IH, W_HH, BIAS = np.array([[1.0, -2.0], [0.5, 1.0]]), np.array([[0.3, -0.8], [1.2, 0.4]]), np.array([0.25, -0.5])
READOUT = np.array([[1.5, -0.7]])
INPUTS = np.array([[1.0, 0.0], [0.0, 2.0], [-1.0, 1.0]])


def promoted(weights, inputs):
    """By hand: the wider of two floats, float32 for the two that have 16 bits; integers do not decide."""
    floats = {name for name in (weights, inputs) if name != "int32"}
    if weights == "int32":
        floats.add("float64")  # integer weights become JAX's default float, float64 in these tests
    if floats == {"float16", "bfloat16"}:
        return "float32"
    return max(floats, key=["float16", "bfloat16", "float32", "float64"].index)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("inputs", DTYPES)
@pytest.mark.parametrize("weights", DTYPES)
def test_the_matrix_of_dtypes(weights, inputs):
    w_ih, w_hh, bias, readout = (np.asarray(w, DTYPES[weights]) for w in (W_IH, W_HH, BIAS, READOUT))
    u = np.asarray(INPUTS, DTYPES[inputs])
    cell = rd.VanillaCell.from_weights(w_ih, w_hh, bias)
    kind, tolerance = promoted(weights, inputs), TOLERANCE[promoted(weights, inputs)]

    states = [np.zeros(2)]
    for row in u.astype(float):
        states.append(np.tanh(w_ih.astype(float) @ row + w_hh.astype(float) @ states[-1] + bias.astype(float)))
    jacobian = (1 - states[1][:, None] ** 2) * w_hh.astype(float)

    model = rd.RNN(cell, lambda h: jnp.asarray(readout) @ h)
    start = jnp.zeros(2, DTYPES[kind])
    for found, expected in [
        (rd.unroll(cell, u), states[1:]),
        (model(u), np.stack(states[1:]) @ readout.T.astype(float)),
        (rd.as_map(cell, u[0])(start), states[1]),
        (rd.as_driven_map(cell)(start, u[0]), states[1]),
        (rd.step_jacobian(cell, cell.initial_state(), u[0]), jacobian),
    ]:
        assert found.dtype == DTYPES[kind]
        np.testing.assert_allclose(found.astype(float), expected, rtol=0, atol=tolerance)
    np.testing.assert_array_equal(rd.trajectory(rd.as_map(cell, u[0]), start, 1)[0], rd.as_map(cell, u[0])(start))
    if kind != weights and weights != "int32":
        # A state of fewer digits than the step gives back is refused in one line.
        with pytest.raises(ValueError, match="expected it to keep the dtype"):
            rd.trajectory(rd.as_map(cell, u[0]), jnp.zeros(2, DTYPES[weights]), 1)
    with pytest.raises(ValueError, match="state: expected floating-point entries, got int"):
        rd.unroll(cell, u, np.zeros(2, int))


@pytest.mark.parametrize(
    "kind",
    [
        lambda key: rd.LSTMCell(2, 3, dtype=jnp.bfloat16, key=key),
        lambda key: rd.LeakyCell(2, 3, tau=4.0, state_variable="current", dtype=jnp.bfloat16, key=key),
        lambda key: rd.AdaptationCell(2, 3, dtype=jnp.bfloat16, key=key),
        lambda key: rd.ShortTermPlasticityCell(2, 3, dtype=jnp.bfloat16, key=key),
        lambda key: rd.LayerNormGRUCell(2, 3, dtype=jnp.bfloat16, key=key),
        lambda key: rd.StackedCell([rd.GRUCell(2, 3, dtype=jnp.bfloat16, key=key), rd.LowRankCell(3, 3, key=key)]),
    ],
)
def test_states_of_several_variables_are_promoted_together(kind):
    """bfloat16 weights with float32 inputs run in float32, with inputs of their own dtype in bfloat16."""
    cell, inputs = fill(kind), INPUTS.astype(np.float32)
    states = rd.unroll(cell, inputs)
    assert {leaf.dtype for leaf in jax.tree.leaves(states)} == {np.dtype(np.float32)}
    own = {leaf.dtype for leaf in jax.tree.leaves(rd.unroll(cell, inputs.astype(ml_dtypes.bfloat16)))}
    assert own == {leaf.dtype for leaf in jax.tree.leaves(cell.initial_state())}
    held = {leaf.dtype for leaf in jax.tree.leaves(rd.unroll(cell, None, num_steps=2))}
    assert held == own
    wide = jax.tree.map(lambda leaf: leaf.astype(np.float32) if eqx.is_inexact_array(leaf) else leaf, cell)
    for found, expected in zip(jax.tree.leaves(states), jax.tree.leaves(rd.unroll(wide, inputs)), strict=True):
        # The same float32 program, but for a product of bfloat16 weights alone, such as a time constant's.
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-2)


def test_generation_promotes_what_is_fed_back():
    """float32 outputs of a bfloat16 cell; integers fed back into a float start, which must not be truncated."""
    cell = fill(lambda key: rd.GRUCell(2, 3, dtype=jnp.bfloat16, key=key))
    readout = fill(lambda key: eqx.nn.Linear(3, 2, key=key))
    model = rd.RNN(cell, readout)
    start = np.array([0.25, -0.75], ml_dtypes.bfloat16)
    outputs = model.generate(start, 3, feed_back=lambda y: y)
    expected = model(np.concatenate([start[None].astype(np.float32), outputs[:-1]]))
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=1e-6)
    outputs = model.generate(start.astype(np.float32), 3, feed_back=lambda y: jnp.round(y).astype(int))
    fed = np.concatenate([start[None].astype(np.float32), np.round(outputs[:-1])])
    np.testing.assert_allclose(outputs, model(fed), rtol=0, atol=1e-6)


def test_a_fixed_point_of_float64_weights_has_all_digits_though_x64_is_off():
    x = 1.0
    for _ in range(200):  # contracts by .5 a step
        x = np.tanh(1.7 * x + 1.1 * 0.3 + 0.1)
    cell = rd.VanillaCell.from_weights(np.array([[1.1]]), np.array([[1.7]]), np.array([0.1]))
    assert cell.weight_hh.dtype == np.float64
    for input in ([0.3], np.array([0.3])):
        points = rd.find_fixed_points(rd.as_map(cell, input), np.linspace(-2, 2, 8)[:, None], progress=False).points
        np.testing.assert_allclose(np.max(points), x, rtol=0, atol=1e-15)  # float32 weights: 4.6e-9 off
    assert rd.trajectory(rd.as_map(cell, [0.3]), np.zeros(1, np.float32), 2).dtype == np.float32  # JAX's own rule
    assert rd.unroll(cell, np.ones((2, 1))).dtype == np.float32


def test_parameters_keep_float64():
    rng = np.random.default_rng(0)
    w, v, b, end = (rng.normal(size=shape) for shape in ((2, 1), (2, 2), 2, (2, 2)))
    u, x = np.array([0.3]), np.array([0.1, -0.7])
    cell, other = (rd.VanillaCell.from_weights(w, weight, b) for weight in (v, end))
    changed = v.copy()
    changed[0, 1] = 0.37
    recurrent = lambda cell: cell.weight_hh
    maps = {
        "input": (rd.input_parameter(cell, u, np.array([0.7])), 0.1, np.tanh(w @ (u + 0.07) + v @ x + b)),
        "list": (rd.input_parameter(cell, [0.3], [0.7]), 0.1, np.tanh(w @ (u + 0.07) + v @ x + b)),
        "leaf": (rd.leaf_parameter(cell, recurrent, u, index=(0, 1)), 0.37, np.tanh(w @ u + changed @ x + b)),
        "gain": (rd.gain_parameter(cell, u), 1.3, np.tanh(w @ u + 1.3 * v @ x + b)),
        "segment": (rd.weight_segment(cell, other, u), 0.3, np.tanh(w @ u + (0.7 * v + 0.3 * end) @ x + b)),
    }  # fmt: skip
    with jax.enable_x64(True):  # what every driver does
        for name, (f, p, expected) in maps.items():
            np.testing.assert_allclose(f(x, np.float64(p)), expected, rtol=0, atol=1e-15, err_msg=name)


@pytest.mark.parametrize(
    "kind",
    [
        lambda w: rd.LSTMCell.from_weights(w(8, 1), w(8, 2), w(8)),
        lambda w: rd.ProjectedLSTMCell.from_weights(w(12, 1), w(12, 2), w(12), w(2, 3)),
        lambda w: rd.GRUCell.from_weights(w(6, 1), w(6, 2), w(6), w(2)),
        lambda w: rd.LayerNormLSTMCell.from_weights(w(8, 1), w(8, 2), w(8), w(8), w(8), w(2), w(2)),
        lambda w: rd.LayerNormGRUCell.from_weights(w(6, 1), w(6, 2), w(6), w(6), w(6)),
        lambda w: rd.LayerNormVanillaCell.from_weights(w(2, 1), w(2, 2), w(2), w(2)),
        lambda w: rd.ChaosFreeCell.from_weights(w(6, 1), w(4, 2), w(4)),
        lambda w: rd.LeakyCell.from_weights(w(2, 1), w(2, 2), w(2), tau=np.array([3.0, 7.0])),
        lambda w: rd.LowRankCell.from_weights(w(3, 1), w(3, 2), w(3, 2), w(3)),
        lambda w: rd.LeakyLowRankCell.from_weights(w(3, 1), w(3, 2), w(3, 2), w(3)),
        lambda w: rd.AdaptationCell.from_weights(w(2, 1), w(2, 2), w(2)),
        lambda w: rd.ShortTermPlasticityCell.from_weights(w(2, 1), w(2, 2), w(2), activation="sigmoid"),
        lambda w: rd.PiecewiseLinearCell.from_weights(w(2), w(2, 2), w(2)),
        lambda w: rd.ConstrainedCell(
            rd.VanillaCell.from_weights(w(2, 1), w(2, 2), w(2)), signs=[1, -1], mask=np.eye(2, dtype=bool)
        ),
    ],
)
def test_every_cell_keeps_float64_and_computes_with_it(kind):
    """Against the same weights as JAX arrays under x64, whose equation its own test knows."""
    rng = np.random.default_rng(0)
    weights = []

    def draw(*shape):
        weights.append(rng.normal(size=shape))
        return weights[-1]

    cell = kind(draw)
    assert all(leaf.dtype != np.float32 for leaf in jax.tree.leaves(cell) if eqx.is_inexact_array(leaf))
    f = rd.as_map(cell)
    x = np.random.default_rng(1).uniform(0.1, 0.9, f.state_size)
    assert np.isfinite(f(x.astype(np.float32))).all()
    assert f.region is None or np.isfinite(f.region[0]).all()
    with jax.enable_x64(True):
        again = iter(weights)
        wide = rd.as_map(kind(lambda *shape: jnp.asarray(next(again))))
        np.testing.assert_allclose(f(x), wide(x), rtol=0, atol=1e-15)
        assert f(x).dtype == np.float64


class Tensor:
    """What torch's tensors are to NumPy: arrays with `__array__`, which refuse while they are trained."""

    def __init__(self, values, requires_grad=True):
        self.values, self.requires_grad, self.shape = values, requires_grad, values.shape

    def detach(self):
        return Tensor(self.values, requires_grad=False)

    def __array__(self, dtype=None, copy=None):
        if self.requires_grad:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad.")
        return self.values if dtype is None else self.values.astype(dtype)


def test_weights_of_other_libraries():
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=shape).astype(np.float32) for shape in ((12, 2), (12, 3), 12)]
    cell = rd.LSTMCell.from_weights(*map(Tensor, arrays))
    for found, expected in zip((cell.weight_ih, cell.weight_hh, cell.bias), arrays):
        np.testing.assert_array_equal(found, expected)
    low_rank = rd.LowRankCell.from_weights(*(Tensor(rng.normal(size=s)) for s in ((4, 1), (4, 2), (4, 2), (4,))))
    assert low_rank.rank == 2
    lists = rd.VanillaCell.from_weights([[1, 0]], [[2]], [0.5])
    np.testing.assert_allclose(lists(np.ones(1), np.ones(2)), np.tanh(3.5), rtol=1e-6)
    with pytest.raises(ValueError, match=r"bias: expected real numbers, got complex"):
        rd.VanillaCell.from_weights(np.ones((1, 1)), np.ones((1, 1)), np.ones(1, complex))
    with pytest.raises(ValueError, match=r"bias: expected an array of numbers"):
        rd.VanillaCell.from_weights(np.ones((1, 1)), np.ones((1, 1)), np.array([None]))


def test_a_model_fetched_from_the_device_runs():
    build = lambda key: rd.StackedRNN(
        [rd.LSTMCell(2, 3, key=key), rd.LeakyCell(3, 4, key=key)],
        eqx.nn.Linear(4, 1, key=key),
        learn_initial_state=True,
    )
    model = fill(build)
    fetched = jax.device_get(model)
    np.testing.assert_allclose(fetched(INPUTS), model(INPUTS), rtol=0, atol=1e-6)
    bidirectional = fill(lambda key: rd.BidirectionalRNN(eqx.nn.GRUCell(2, 3, key=key), rd.GRUCell(2, 3, key=key), sum))
    np.testing.assert_allclose(jax.device_get(bidirectional)(INPUTS), bidirectional(INPUTS), rtol=0, atol=1e-6)


def test_half_precision_initialisers():
    for dtype in (jnp.float16, jnp.bfloat16):
        drawn = rd.initializers.orthogonal(2.0)(jax.random.key(0), (4, 4), dtype)
        assert drawn.dtype == dtype
        square = np.asarray(drawn, float)
        np.testing.assert_allclose(square @ square.T, 4 * np.eye(4), atol=64 * jnp.finfo(dtype).eps)
    cell = rd.GRUCell(2, 4, weight_hh_init=rd.initializers.orthogonal(), dtype=jnp.bfloat16, key=jax.random.key(0))
    assert cell.weight_hh.dtype == jnp.bfloat16
    # 1e6 steps are past the largest float16, their logarithm is not.
    bias = rd.initializers.chrono(1e6)(jax.random.key(0), (4000,), jnp.float16)
    assert 12 < np.max(bias) <= np.log(1e6) + 0.01
    assert np.isfinite(bias).all()
    for worst in (np.inf, np.nan):
        with pytest.raises(ValueError, match="max_time: expected more than 2 steps, and finitely many"):
            rd.initializers.chrono(worst)
