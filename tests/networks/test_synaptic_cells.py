"""Cells with several variables, and constrained weights, against plain NumPy programs."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from networks.random_cells import fill, jitted, normal

import rnndyn as rd

IN, H, T = 2, 4, 30
RNG = np.random.default_rng(3)
INPUTS = RNG.normal(size=(T, IN))
W_IH, W_HH, BIAS = RNG.normal(size=(H, IN)), RNG.normal(size=(H, H)), RNG.normal(size=H)
FLOAT64 = {"rtol": 0, "atol": 1e-12}  # thirty steps of float64 sums


def test_adaptation_is_an_euler_step_of_its_equations(x64):
    g, tau_a = np.array([0.5, 1.0, 2.0, 0.1]), 40.0
    cell = rd.AdaptationCell.from_weights(W_IH, W_HH, BIAS, strength=g, dt=2.0, tau=8.0, tau_adaptation=tau_a)
    xs, As = rd.unroll(cell, INPUTS)
    x, a = np.zeros(H), np.zeros(H)
    for t, u in enumerate(INPUTS):
        r = np.tanh(x)
        x, a = x + 2 / 8 * (-x + W_IH @ u + W_HH @ r + BIAS - g * a), a + 2 / tau_a * (-a + r)
        np.testing.assert_allclose((xs[t], As[t]), (x, a), **FLOAT64)
    np.testing.assert_allclose(cell.output((x, a)), np.tanh(x), **FLOAT64)
    assert cell.time_step == pytest.approx(2 / 40)


def test_adaptation_makes_a_focus_of_a_node(x64):
    """One unit, φ = identity: (x, a) moves by [[1-α+αw, -αg], [α_a, 1-α_a]], whose eigenvalues are known."""
    w, g, alpha, alpha_a = 0.5, 3.0, 0.1, 0.05
    cell = rd.AdaptationCell.from_weights(
        np.zeros((1, 0)), np.array([[w]]), np.zeros(1), strength=g, dt=1.0, tau=1 / alpha, tau_adaptation=1 / alpha_a,
        activation="identity",
    )  # fmt: skip
    trace = 2 - alpha + alpha * w - alpha_a
    det = (1 - alpha + alpha * w) * (1 - alpha_a) + alpha * g * alpha_a
    expected = (trace + np.sqrt(complex(trace**2 - 4 * det)) * np.array([1, -1])) / 2
    found = np.asarray(rd.linearize(rd.as_map(cell), np.zeros(2)).multipliers)
    np.testing.assert_allclose(np.sort_complex(found), np.sort_complex(expected), rtol=0, atol=1e-14)
    assert np.abs(expected.imag).min() > 0.1


def masse(h, x, u, v, w_ih, w_hh, bias, tau_x, tau_u, use, alpha=0.1, dt=10.0, noise=0.0):
    """The network of Masse et al. 2019, from its equations: synapses first, then units with the new synapses."""
    x, u = (
        x + dt / tau_x * (1 - x) - dt / 1000 * u * x * h,
        u + dt / tau_u * (use - u) + dt / 1000 * use * (1 - u) * h,
    )
    x, u = np.clip(x, 0, 1), np.clip(u, 0, 1)
    return np.maximum(0, (1 - alpha) * h + alpha * (w_ih @ v + w_hh @ (u * x * h) + bias) + noise), x, u


def test_short_term_plasticity_is_that_of_masse(x64):
    facilitating = np.arange(H) % 2 == 0
    tau_x, tau_u, use = (np.where(facilitating, a, b) for a, b in ((200, 1500), (1500, 200), (0.15, 0.45)))
    # Drive and rates large enough for the synapses to move, and for a depleted one to be clipped at zero.
    cell = rd.ShortTermPlasticityCell.from_weights(20 * W_IH, W_HH, 30 * np.abs(BIAS))
    states = rd.unroll(cell, INPUTS)
    state = np.zeros(H), np.ones(H), use
    np.testing.assert_array_equal(cell.initial_state(), state)
    for t, v in enumerate(INPUTS):
        state = masse(*state, v, 20 * W_IH, W_HH, 30 * np.abs(BIAS), tau_x, tau_u, use)
        np.testing.assert_allclose([leaf[t] for leaf in states], state, **FLOAT64)
    assert np.ptp(states[1]) > 0.1
    assert np.ptp(states[2]) > 0.1
    assert cell.time_step == pytest.approx(10 / 1500)
    after = masse(np.full(H, 900.0), *state[1:], v, W_IH, W_HH, BIAS, tau_x, tau_u, use)
    strong = rd.ShortTermPlasticityCell.from_weights(W_IH, W_HH, BIAS)
    np.testing.assert_allclose(strong((np.full(H, 900.0), *state[1:]), v), after, **FLOAT64)
    assert after[1].min() == 0


def test_noise_of_masse_has_the_same_draws(x64):
    cell = rd.ShortTermPlasticityCell.from_weights(W_IH, W_HH, BIAS, tau_x=200.0, tau_u=1500.0, use=0.15, noise=0.5)
    key = jax.random.key(4)
    states, state = rd.unroll(cell, INPUTS, key=key), (np.zeros(H), np.ones(H), np.full(H, 0.15))
    for t, (v, step_key) in enumerate(zip(INPUTS, jax.random.split(key, T))):
        noise = np.sqrt(2 * 0.1) * 0.5 * np.asarray(jax.random.normal(step_key, (H,)))
        state = masse(*state, v, W_IH, W_HH, BIAS, 200.0, 1500.0, 0.15, noise=noise)
        np.testing.assert_allclose([leaf[t] for leaf in states], state, **FLOAT64)


def test_only_arrays_of_constants_are_trained():
    gradient = lambda cell: eqx.filter_grad(lambda c: jnp.sum(c(c.initial_state(), jnp.ones(IN))[0]))(cell)
    fixed = rd.ShortTermPlasticityCell.from_weights(W_IH, W_HH, BIAS)
    assert {leaf.shape for leaf in jax.tree.leaves(gradient(fixed))} == {(H, IN), (H, H), (H,)}
    trained = rd.AdaptationCell.from_weights(W_IH, W_HH, BIAS, strength=jnp.ones(H))
    assert gradient(trained).strength.shape == (H,)
    assert gradient(trained).tau is None


def test_constraints_are_kept_by_training(x64):
    signs, mask = np.array([1, 1, -1, 1]), RNG.random((H, H)) < 0.6
    input_mask = np.arange(IN) == 1
    input_mask = np.broadcast_to(input_mask, (H, IN))
    free = rd.LeakyCell.from_weights(W_IH, W_HH, BIAS, tau=4.0)
    cell = rd.ConstrainedCell(free, signs=signs, mask=mask, input_mask=input_mask)
    effective = np.where(mask, np.abs(W_HH) * signs, 0)
    h = np.abs(RNG.normal(size=H))
    target = np.tanh(effective @ h + np.where(input_mask, W_IH, 0) @ INPUTS[0] + BIAS)
    np.testing.assert_allclose(cell(h, INPUTS[0]), 0.75 * h + 0.25 * target, **FLOAT64)

    model = rd.RNN(cell, lambda h: h)
    optimizer = optax.sgd(0.1)
    loss = lambda model: jnp.mean((model(INPUTS) - 1) ** 2)
    for _ in range(3):
        gradient = jitted(eqx.filter_grad(loss), model)
        # By the chain rule through mask ∘ |w| D(signs).
        through = eqx.filter_grad(lambda c: loss(rd.RNN(c, lambda h: h)))(model.cell.effective_cell()).weight_hh
        expected = np.where(mask, through * signs * np.sign(model.cell.cell.weight_hh), 0)
        np.testing.assert_allclose(gradient.cell.cell.weight_hh, expected, rtol=0, atol=1e-12)
        updates, _ = optimizer.update(gradient, optimizer.init(eqx.filter(model, eqx.is_inexact_array)))
        model = eqx.apply_updates(model, updates)
    trained = np.asarray(rd.as_map(model.cell).cell.weight_hh)
    assert np.abs(trained - effective).max() > 1e-3
    assert (trained[:, signs == 1] >= 0).all()
    assert (trained[:, signs == -1] <= 0).all()
    assert (trained[~mask] == 0).all()
    assert (np.asarray(rd.as_map(model.cell).cell.weight_ih)[:, 0] == 0).all()


def test_analyses_and_stacks_take_constrained_cells(x64):
    cell = rd.ConstrainedCell(fill(lambda key: rd.VanillaCell(IN, H, key=key)), signs=[1, -1, 1, -1])
    effective = np.abs(cell.cell.weight_hh) * np.array([1, -1, 1, -1])
    x, u = np.linspace(-0.5, 0.5, H), np.ones(IN)
    slope = 1 - np.tanh(cell.cell.weight_ih @ u + effective @ x + cell.cell.bias) ** 2
    np.testing.assert_allclose(rd.step_jacobian(cell, x, u), slope[:, None] * effective, **FLOAT64)
    assert rd.as_map(cell).region is not None
    stacked = rd.StackedCell([cell, rd.DropoutCell(cell_of_width(H), 0.5)])
    inner = rd.VanillaCell.from_weights(cell.cell.weight_ih, effective, cell.cell.bias)
    np.testing.assert_allclose(rd.unroll(stacked, INPUTS)[0], rd.unroll(inner, INPUTS), **FLOAT64)


def cell_of_width(size):
    return fill(lambda key: rd.GRUCell(size, 3, key=key))


def test_what_is_refused():
    cell = fill(lambda key: rd.VanillaCell(IN, H, key=key))
    for build, message in [
        (lambda: rd.ConstrainedCell(cell, signs=[1, 1, 0, 1]), r"signs: expected \+1 or -1 for each of 4 units"),
        (lambda: rd.ConstrainedCell(cell, mask=np.ones((H, H))), "mask: expected booleans"),
        (lambda: rd.ConstrainedCell(cell, input_mask=np.ones((H, H), bool)), r"input_mask: .*shape \(4, 2\)"),
        (lambda: rd.ConstrainedCell(rd.LowRankCell(IN, H, key=jax.random.key(0))), "cell: expected one with a weight"),
        (lambda: rd.AdaptationCell(IN, H, tau_adaptation=0.5, key=jax.random.key(0)), "tau_adaptation: expected time"),
        (lambda: rd.AdaptationCell(IN, H, strength=np.ones(3), key=jax.random.key(0)), "strength: expected a number"),
        (lambda: rd.ShortTermPlasticityCell(IN, H, use=1.5, key=jax.random.key(0)), "use: expected fractions"),
        (lambda: cell_of_width(2)(normal(3), normal(3)), r"input: expected shape \(2,\)"),
        (
            lambda: rd.ShortTermPlasticityCell.from_weights(W_IH, W_HH, BIAS)(np.zeros(H), np.ones(IN)),
            r"state: expected the tuple \(h, x, u\)",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            build()
