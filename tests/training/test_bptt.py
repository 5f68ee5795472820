"""Backpropagation through time against `jax.grad`, truncation against stopped gradients, growth against exponents."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks.random_cells import fill

import rnndyn as rd

IN, H, OUT, T = 3, 4, 2, 12
# Sums of tens of terms in float64; the issue asks for 1e-10 of the size of the gradient.
RTOL = 1e-10
CELLS = {
    "vanilla": lambda key: rd.VanillaCell(IN, H, key=key),
    "leaky": lambda key: rd.LeakyCell(IN, H, key=key),
    "low rank": lambda key: rd.LowRankCell(IN, H, rank=2, key=key),
    "lstm": lambda key: rd.LSTMCell(IN, H, key=key),
    "gru after": lambda key: rd.GRUCell(IN, H, key=key),
    "gru before": lambda key: rd.GRUCell(IN, H, reset="before", key=key),
    "chaos free": lambda key: rd.ChaosFreeCell(IN, H, key=key),
    "piecewise linear": lambda key: rd.PiecewiseLinearCell(IN, H, key=key),
    "stacked": lambda key: rd.StackedCell([rd.VanillaCell(IN, H, key=key), rd.GRUCell(H, H, key=key)]),
}


def squared_error(output, target):
    return jnp.mean((output - target) ** 2)


def sequence(seed=3):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(T, IN)), rng.normal(size=(T, OUT)), rng.uniform(0, 1, T)


def readout_of(size=H):
    return fill(lambda key: eqx.nn.Linear(size, OUT, key=key), seed=5)


def total_loss(cell, readout, inputs, targets, weights, stop_every=T):
    """The same loss as one scan; the state's gradient is stopped before every `stop_every`th step."""
    g = rd.as_driven_map(cell)

    def step(x, row):
        t, u, target, weight = row
        x = g(jnp.where(t % stop_every == 0, jax.lax.stop_gradient(x), x), u)
        return x, weight * squared_error(readout(g.cell.output(g.unflatten(x))), target)

    x0 = jnp.zeros(g.state_size, inputs.dtype)
    return jax.lax.scan(step, x0, (jnp.arange(len(inputs)), inputs, targets, weights))[1].sum()


@eqx.filter_jit
def autodiff(cell, readout, inputs, targets, weights, stop_every):
    """The gradient of the cell's and the readout's weights by name, as `bptt` calls them, and the loss."""
    loss, (by_cell, by_readout) = eqx.filter_value_and_grad(
        lambda pair: total_loss(*pair, inputs, targets, weights, stop_every)
    )((cell, readout))
    named = {}
    for prefix, tree in (("cell", by_cell), ("readout", by_readout)):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            named[prefix + jax.tree_util.keystr(path)] = leaf
    return named, loss


def assert_same(found, expected, rtol=RTOL):
    assert found.keys() == expected.keys()
    for name in expected:
        scale = np.linalg.norm(expected[name])
        assert scale > 0
        assert np.linalg.norm(np.asarray(found[name]) - np.asarray(expected[name])) <= rtol * scale, name


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", CELLS)
def test_it_is_the_gradient_that_autodiff_finds(name):
    cell, readout = fill(CELLS[name]), readout_of()
    inputs, targets, weights = sequence()

    found = rd.bptt(cell, readout, inputs, targets, squared_error, weights=weights)
    expected, loss = autodiff(cell, readout, inputs, targets, weights, T)
    assert_same(found.gradient, expected)
    for key, terms in found.contributions.items():
        assert terms.shape[0] == T
        np.testing.assert_allclose(terms.sum(axis=0), expected[key], rtol=0, atol=1e-12)
    assert float(found.loss) == pytest.approx(float(loss), rel=1e-12)


@pytest.fixture(scope="module")
def network():
    with jax.enable_x64(True):
        return fill(CELLS["gru after"]), readout_of()


@pytest.mark.usefixtures("x64")
def test_a_window_of_the_sequence_is_the_full_gradient(network):
    inputs, targets, weights = sequence()
    found = rd.bptt(*network, inputs, targets, squared_error, weights=weights, window=T)
    truncated = found.truncated
    of_the_cell = {name: g for name, g in found.gradient.items() if name.startswith("cell")}
    assert_same(truncated.gradient, of_the_cell)
    assert float(truncated.relative_error) < RTOL
    assert float(truncated.cosine) == pytest.approx(1, abs=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("window", [5, 1])  # 5 does not divide the length: the last piece is shorter
def test_pieces_are_what_stopping_the_gradient_between_them_gives(network, window):
    inputs, targets, weights = sequence()
    found = rd.bptt(*network, inputs, targets, squared_error, weights=weights, window=window)
    expected, _ = autodiff(*network, inputs, targets, weights, jnp.asarray(window))
    assert_same(found.truncated.gradient, {name: g for name, g in expected.items() if name.startswith("cell")})
    for name, gradient in found.truncated.gradient.items():
        np.testing.assert_allclose(gradient + found.truncated.missing[name], found.gradient[name], atol=1e-14)
    assert 0.01 < float(found.truncated.relative_error) < 2


@pytest.mark.usefixtures("x64")
def test_with_stride_one_every_loss_reaches_back_exactly_the_window(network):
    inputs, targets, weights = sequence()
    found = rd.bptt(*network, inputs, targets, squared_error, weights=weights, window=4, stride=1)
    cell, readout = network
    g = rd.as_driven_map(cell)

    @jax.jit
    @jax.vmap
    def by_loss(end):
        """The loss of one step, its gradient stopped four steps before it."""

        def one(cell):
            x = jax.lax.stop_gradient(jnp.asarray(found.states)[jnp.maximum(0, end - 4)])
            for back in (4, 3, 2, 1):
                u = jnp.asarray(inputs)[jnp.maximum(0, end - back)]
                x = jnp.where(end >= back, rd.as_driven_map(cell)(x, u), x)
            target = jnp.asarray(targets)[end - 1]
            return squared_error(readout(g.cell.output(g.unflatten(x))), target)

        return eqx.filter_grad(one)(cell).weight_hh

    expected = np.einsum("t,tij->ij", weights, by_loss(1 + jnp.arange(T)))
    np.testing.assert_allclose(found.truncated.gradient["cell.weight_hh"], expected, rtol=0, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_adjoints_jacobians_and_the_gradient_of_the_initial_state(network):
    cell, readout = network
    inputs, targets, _ = sequence()
    found = rd.bptt(cell, readout, inputs, targets, squared_error)
    factors = jax.vmap(lambda x, u: rd.step_jacobian(cell, x, u))(found.states[:-1], inputs)
    # a_t = direct part + DF(x_t)^T a_{t+1}, with the factors in closed form.
    carried = np.einsum("tij,ti->tj", factors, found.adjoints[1:])
    np.testing.assert_allclose(found.adjoints[:-1], found.direct[:-1] + carried, rtol=0, atol=1e-13)
    np.testing.assert_allclose(found.adjoints[-1], found.direct[-1], atol=1e-15)
    np.testing.assert_allclose(
        np.linalg.norm(found.adjoints, axis=1), np.exp(found.log_adjoint_norms), rtol=1e-12, atol=0
    )
    for shares in found.contribution_shares.values():
        assert float(shares.sum()) == pytest.approx(1, abs=1e-10)


@pytest.mark.usefixtures("x64")
def test_steps_without_weight_may_hold_anything(network):
    inputs, targets, _ = sequence()
    weights = np.zeros(T)
    weights[-1] = 1.0
    targets[:-1] = np.nan
    found = rd.bptt(*network, inputs, targets, squared_error, weights=weights, window=3)
    assert all(np.isfinite(gradient).all() for gradient in found.gradient.values())
    assert np.isfinite(found.truncated.relative_error)
    # The loss of the last step reaches every earlier one, and the readout only at that step.
    assert np.count_nonzero(found.contribution_norms["readout.weight"]) == 1
    assert np.count_nonzero(found.contribution_norms["cell.weight_hh"]) == T - 1  # the first state is zero


def test_it_maps_over_a_batch_and_follows_the_dtype():
    cell, readout = fill(CELLS["vanilla"]), readout_of()
    inputs, targets, weights = (np.stack([a, -a]).astype(np.float32) for a in sequence())
    found = jax.vmap(lambda i, t, w: rd.bptt(cell, readout, i, t, squared_error, weights=w, window=4))(
        inputs, targets, weights
    )
    assert found.adjoints.dtype == jnp.float32
    expected, _ = autodiff(cell, readout, inputs[1], targets[1], weights[1], T)
    # Float32 sums of tens of terms, in another order.
    assert_same({name: gradient[1] for name, gradient in found.gradient.items()}, expected, rtol=1e-5)
    assert found.truncated.cosine.shape == (2,)


@pytest.mark.usefixtures("x64")
def test_log_gradients_fall_and_rise_with_the_largest_exponent():
    num_units, num_steps = 30, 1000
    identity = lambda h: h
    rng = np.random.default_rng(4)
    for gain in (0.7, 3.5):
        weight = gain * rng.normal(size=(num_units, num_units)) / np.sqrt(num_units)
        cell = rd.VanillaCell.from_weights(rng.normal(size=(num_units, 1)) * 0.1, weight, np.zeros(num_units))
        inputs = rng.normal(size=(num_steps, 1))
        last = np.zeros(num_steps)
        last[-1] = 1.0
        found = rd.bptt(cell, identity, inputs, np.ones((num_steps, num_units)), squared_error, weights=last)
        lags = np.arange(num_steps + 1)[::-1]
        slope = np.polyfit(lags, found.log_adjoint_norms, 1)[0]
        g = rd.as_driven_map(cell)
        exponent = rd.lyapunov_spectrum(g, np.zeros(num_units), num_steps, inputs=inputs, num_exponents=1).exponents[0]
        assert np.sign(exponent) == (1 if gain > 1 else -1)
        # The 5 %: over 1000 steps the two differ by their ends only.
        assert slope == pytest.approx(float(exponent), rel=0.05)


def test_it_prints_and_saves(network, tmp_path, x64):
    inputs, targets, _ = sequence()
    found = rd.bptt(*network, inputs, targets, squared_error, window=4)
    assert "cell.weight_hh" in str(found)
    assert "truncated to 4 steps" in str(found)
    loaded = rd.load(found.save(tmp_path / "found"))
    np.testing.assert_array_equal(loaded.gradient["cell.bias"], found.gradient["cell.bias"])
    assert str(loaded) == str(found)


def test_what_is_refused():
    cell, readout = fill(CELLS["vanilla"]), readout_of()
    inputs, targets, weights = sequence()
    run = lambda cell=cell, readout=readout, inputs=inputs, targets=targets, loss=squared_error, **kwargs: rd.bptt(
        cell, readout, inputs, targets, loss, **kwargs
    )
    with pytest.raises(ValueError, match="window: expected 1 to 12 steps, the length of the sequence, got 13"):
        run(window=13)
    with pytest.raises(ValueError, match="window: expected 1 to 12 steps"):
        run(window=0)
    with pytest.raises(ValueError, match="stride: expected 1 to 3 steps, the window, got 4"):
        run(window=3, stride=4)
    with pytest.raises(ValueError, match=r"stride: .* give its window"):
        run(stride=4)
    with pytest.raises(ValueError, match="inputs: expected a sequence of at least one step"):
        run(inputs=inputs[:0], targets=targets[:0])
    with pytest.raises(ValueError, match=r"input: expected shape \(3,\)"):
        run(inputs=inputs[:, :2])
    with pytest.raises(ValueError, match="targets: expected one per step"):
        run(targets=targets[1:])
    with pytest.raises(ValueError, match="weights: expected one number per step"):
        run(weights=weights[1:])
    with pytest.raises(ValueError, match=r"loss: .* to be a scalar"):
        run(loss=lambda output, target: output - target)
    with pytest.raises(ValueError, match="readout, targets, loss: they do not fit together"):
        run(readout=readout_of(H + 1))
    with pytest.raises(ValueError, match=r"state: expected shape \(4,\)"):
        run(state=jnp.zeros(H + 2))
