"""Every cell against its equation, written again in NumPy, and against Equinox's cells."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks.random_cells import fill, jitted, normal

import rnndyn as rd
from rnndyn.dynamics.numerics.drivers import to_double

IN, H = 3, 5
CELLS = {
    "vanilla": lambda key: rd.VanillaCell(IN, H, key=key),
    "vanilla relu": lambda key: rd.VanillaCell(IN, H, activation="relu", key=key),
    "leaky": lambda key: rd.LeakyCell(IN, H, key=key),
    "leaky current": lambda key: rd.LeakyCell(IN, H, state_variable="current", key=key),
    "low rank": lambda key: rd.LowRankCell(IN, H, rank=2, key=key),
    "lstm": lambda key: rd.LSTMCell(IN, H, key=key),
    "gru after": lambda key: rd.GRUCell(IN, H, key=key),
    "gru before": lambda key: rd.GRUCell(IN, H, reset="before", key=key),
    "chaos free": lambda key: rd.ChaosFreeCell(IN, H, key=key),
    "piecewise linear": lambda key: rd.PiecewiseLinearCell(IN, H, key=key),
    "almost linear": lambda key: rd.PiecewiseLinearCell(IN, H, num_rectified=2, key=key),
    "shallow": lambda key: rd.PiecewiseLinearCell(IN, H, num_hidden=7, key=key),
}
# Sums of about ten products, in float64 rounded to 1e-16 each.
FLOAT64 = {"rtol": 0, "atol": 1e-14}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.fixture(params=CELLS)
def cell(request):
    return fill(CELLS[request.param])


def random_state(cell, rng):
    return jax.tree.map(lambda leaf: rng.uniform(-1, 1, leaf.shape).astype(leaf.dtype), cell.initial_state())


def pytorch_lstm(w, u, b, state, x):
    h, c = state
    size = len(h)
    a = w @ x + u @ h + b
    i, f, o = (sigmoid(a[k * size : (k + 1) * size]) for k in (0, 1, 3))
    g = np.tanh(a[2 * size : 3 * size])
    c = f * c + i * g
    return o * np.tanh(c), c


def pytorch_gru(w, u, b_ih, b_hh, h, x):
    (wr, wz, wn), (ur, uz, un) = np.split(w, 3), np.split(u, 3)
    (br, bz, bn), (cr, cz, cn) = np.split(b_ih, 3), np.split(b_hh, 3)
    r = sigmoid(wr @ x + br + ur @ h + cr)
    z = sigmoid(wz @ x + bz + uz @ h + cz)
    n = np.tanh(wn @ x + bn + r * (un @ h + cn))
    return (1 - z) * n + z * h


def cho_gru(w, u, b, h, x):
    (wr, wz, wn), (ur, uz, un), (br, bz, bn) = np.split(w, 3), np.split(u, 3), np.split(b, 3)
    r = sigmoid(wr @ x + br + ur @ h)
    z = sigmoid(wz @ x + bz + uz @ h)
    n = np.tanh(wn @ x + bn + un @ (r * h))
    return (1 - z) * n + z * h


def test_lstm_is_pytorchs(x64):
    rng = np.random.default_rng(0)
    w, u, b_ih, b_hh = (rng.normal(size=s) for s in ((4 * H, IN), (4 * H, H), (4 * H,), (4 * H,)))
    cell = rd.LSTMCell.from_weights(w, u, b_ih + b_hh)
    state = expected = rng.normal(size=H), rng.normal(size=H)
    for x in rng.normal(size=(20, IN)):
        state, expected = cell(state, x), pytorch_lstm(w, u, b_ih + b_hh, expected, x)
    np.testing.assert_allclose(state, expected, **FLOAT64)


def test_gru_with_reset_after_is_pytorchs(x64):
    rng = np.random.default_rng(1)
    w, u, b_ih, b_hh = (rng.normal(size=s) for s in ((3 * H, IN), (3 * H, H), (3 * H,), (3 * H,)))
    bias = b_ih + np.concatenate([b_hh[: 2 * H], np.zeros(H)])
    cell = rd.GRUCell.from_weights(w, u, bias, b_hh[2 * H :])
    state = expected = rng.normal(size=H)
    for x in rng.normal(size=(20, IN)):
        state, expected = cell(state, x), pytorch_gru(w, u, b_ih, b_hh, expected, x)
    np.testing.assert_allclose(state, expected, **FLOAT64)


def test_gru_with_reset_before_is_chos(x64):
    rng = np.random.default_rng(2)
    w, u, b = (rng.normal(size=s) for s in ((3 * H, IN), (3 * H, H), (3 * H,)))
    cell = rd.GRUCell.from_weights(w, u, b, reset="before")
    state = expected = rng.normal(size=H)
    for x in rng.normal(size=(20, IN)):
        state, expected = cell(state, x), cho_gru(w, u, b, expected, x)
    np.testing.assert_allclose(state, expected, **FLOAT64)
    after = rd.GRUCell.from_weights(w, u, b, np.zeros(H))
    assert np.abs(after(state, x) - cell(state, x)).max() > 1e-2  # the two are not one cell with two names


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("kind", ["LSTMCell", "GRUCell"])
def test_gated_cells_are_equinoxs(kind, use_bias):
    peer = fill(lambda key: getattr(eqx.nn, kind)(IN, H, use_bias=use_bias, key=key))
    weights = [peer.weight_ih, peer.weight_hh]
    num_gates = 4 if kind == "LSTMCell" else 3
    weights.append(peer.bias if use_bias else np.zeros(num_gates * H))
    if kind == "GRUCell":
        weights.append(peer.bias_n if use_bias else np.zeros(H))
    cell = getattr(rd, kind).from_weights(*weights)
    state = expected = cell.initial_state()
    for x in normal(20, IN):
        state, expected = cell(state, x), peer(x, expected)
    # The bound asked for; float32 rounds at 6e-8 and both cells contract.
    np.testing.assert_allclose(state, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("tanh", np.tanh),
        ("relu", lambda x: np.maximum(x, 0)),
        ("sigmoid", sigmoid),
        ("softplus", lambda x: np.log1p(np.exp(x))),
        ("identity", lambda x: x),
        (jnp.sin, np.sin),
    ],
)
def test_vanilla_with_every_activation(x64, name, function):
    rng = np.random.default_rng(3)
    w, u, b, h, x = (rng.normal(size=s) for s in ((H, IN), (H, H), (H,), (H,), (IN,)))
    cell = rd.VanillaCell.from_weights(w, u, b, activation=name)
    np.testing.assert_allclose(cell(h, x), function(w @ x + u @ h + b), **FLOAT64)


def test_leaky_forms_are_euler_steps_of_the_rate_equations(x64):
    rng = np.random.default_rng(4)
    w, u, b, s, x = (rng.normal(size=s) for s in ((H, IN), (H, H), (H,), (H,), (IN,)))
    rate = rd.LeakyCell.from_weights(w, u, b, dt=2.0, tau=8.0)
    np.testing.assert_allclose(rate(s, x), s + 2 / 8 * (-s + np.tanh(w @ x + u @ s + b)), **FLOAT64)
    assert rate.output(s) is s
    current = rd.LeakyCell.from_weights(w, u, b, dt=2.0, tau=8.0, state_variable="current")
    np.testing.assert_allclose(current(s, x), s + 2 / 8 * (-s + w @ x + u @ np.tanh(s) + b), **FLOAT64)
    np.testing.assert_allclose(current.output(s), np.tanh(s), **FLOAT64)
    tau = np.linspace(2, 9, H)
    per_unit = rd.LeakyCell.from_weights(w, u, b, dt=2.0, tau=tau)
    np.testing.assert_allclose(per_unit(s, x), s + 2 / tau * (-s + np.tanh(w @ x + u @ s + b)), **FLOAT64)


def test_leaky_with_dt_equal_to_tau_is_vanilla(x64):
    leaky = fill(lambda key: rd.LeakyCell(IN, H, dt=3.0, tau=3.0, key=key))
    vanilla = rd.VanillaCell.from_weights(leaky.weight_ih, leaky.weight_hh, leaky.bias)
    inputs = normal(30, IN)
    np.testing.assert_allclose(rd.unroll(leaky, inputs), rd.unroll(vanilla, inputs), **FLOAT64)


def test_leaky_current_form_carries_the_same_dynamics_as_the_rate_form(x64):
    """With a held input, x = W r + W_ih u + b turns the rate form into the current form, at every step."""
    rate = fill(lambda key: rd.LeakyCell(IN, H, dt=1.0, tau=4.0, key=key), scale=0.4)
    w, u, b = rate.weight_ih, rate.weight_hh, rate.bias
    current = rd.LeakyCell.from_weights(w, u, b, dt=1.0, tau=4.0, state_variable="current")
    x, r = normal(IN), normal(H, seed=2)
    rates = rd.unroll(rate, x, r, num_steps=25)
    currents = rd.unroll(current, x, u @ r + w @ x + b, num_steps=25)
    np.testing.assert_allclose(currents, rates @ u.T + w @ x + b, **FLOAT64)


def test_only_an_array_tau_is_trained():
    fixed, trained = (
        rd.LeakyCell.from_weights(normal(H, IN), normal(H, H), normal(H), tau=tau) for tau in (10.0, np.full(H, 10.0))
    )
    gradient = lambda cell: eqx.filter_grad(lambda c: c(jnp.ones(H), jnp.ones(IN)).sum())(cell).tau
    assert gradient(fixed) is None
    assert np.all(gradient(trained) != 0)


def test_private_noise_has_its_variance_and_needs_a_key(x64):
    """x' = (1 - α) x + α √(2/α) σ η has the stationary variance 2 α σ² / (1 - (1 - α)²) = σ² / (1 - α/2)."""
    alpha, sigma, units = 0.25, 0.3, 2000
    cell = rd.LeakyCell.from_weights(
        np.zeros((units, 0)), np.zeros((units, units)), np.zeros(units),
        dt=alpha, tau=1.0, state_variable="current", noise=sigma,
    )  # fmt: skip
    still = rd.unroll(cell, None, num_steps=3)
    np.testing.assert_array_equal(still, 0)
    noisy = rd.unroll(cell, None, num_steps=60, key=jax.random.key(1))
    # (1 - α)^60 = 3e-8 of the start is left. The relative standard error of a variance of n normals is √(2/n) = 0.032.
    assert np.var(noisy[-1]) == pytest.approx(sigma**2 / (1 - alpha / 2), rel=4 * 0.0316)
    assert np.abs(np.corrcoef(noisy[-1], noisy[-2])[0, 1] - (1 - alpha)) < 4 / np.sqrt(units)
    assert not np.array_equal(noisy, rd.unroll(cell, None, num_steps=60, key=jax.random.key(2)))


def test_low_rank_is_the_dense_cell_with_its_weight(x64):
    cell = fill(lambda key: rd.LowRankCell(IN, H, rank=2, key=key))
    dense = cell.left @ cell.right.T / H
    np.testing.assert_allclose(cell.weight_hh, dense, **FLOAT64)
    assert np.linalg.matrix_rank(cell.weight_hh) == 2
    vanilla = rd.VanillaCell.from_weights(cell.weight_ih, dense, cell.bias)
    inputs = normal(30, IN)
    np.testing.assert_allclose(rd.unroll(cell, inputs), rd.unroll(vanilla, inputs), **FLOAT64)


def test_chaos_free_follows_its_equation(x64):
    rng = np.random.default_rng(12)
    v, u, b, h, x = (rng.normal(size=s) for s in ((3 * H, IN), (2 * H, H), (2 * H,), (H,), (IN,)))
    cell = rd.ChaosFreeCell.from_weights(v, u, b)
    theta = sigmoid(v[:H] @ x + u[:H] @ h + b[:H])
    eta = sigmoid(v[H : 2 * H] @ x + u[H:] @ h + b[H:])
    np.testing.assert_allclose(cell(h, x), theta * np.tanh(h) + eta * np.tanh(v[2 * H :] @ x), **FLOAT64)


def test_chaos_free_decays_to_zero_without_input(x64):
    """Weights that make most gated cells chaotic: here |h| still falls at every step, to zero."""
    rng = np.random.default_rng(13)
    cell = rd.ChaosFreeCell.from_weights(np.zeros((60, 0)), rng.normal(scale=3, size=(40, 20)), np.zeros(40))
    states = np.abs(rd.unroll(cell, None, rng.normal(scale=5, size=20), num_steps=2000))
    assert np.all(np.diff(states, axis=0) <= 0)
    # |h'| <= tanh|h| gives |h_t| <= √(3/(2t)) = 0.027; gates below one make it far smaller.
    assert states[-1].max() < 1e-6


def test_cells_jit_vmap_and_keep_dtype(cell):
    rng = np.random.default_rng(0)
    states = jax.tree.map(lambda *s: jnp.stack(s), *[random_state(cell, rng) for _ in range(4)])
    inputs = jnp.asarray(rng.normal(size=(4, IN)), jnp.float32)
    batched = eqx.filter_jit(eqx.filter_vmap(lambda c, s, x: c(s, x), in_axes=(None, 0, 0)))(cell, states, inputs)
    for k in (0, 3):
        one = cell(jax.tree.map(lambda s, k=k: s[k], states), inputs[k])
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(batched), strict=True):
            # A batched product sums in another order: a few roundings of float32.
            np.testing.assert_allclose(a, b[k], rtol=0, atol=1e-6)
            assert a.dtype == jnp.float32
    assert jax.tree.structure(cell.initial_state()) == jax.tree.structure(states)
    assert cell.output(cell.initial_state()).shape == (H,)
    assert eqx.filter_eval_shape(cell.output, cell.initial_state()).dtype == jnp.float32


def test_cells_take_numpy_weights_and_states(cell):
    """Drivers cast weights to NumPy float64 before they trace a cell."""
    with jax.enable_x64(True):
        double = to_double(cell)
        state = jax.tree.map(lambda s: np.asarray(s, np.float64), random_state(cell, np.random.default_rng(0)))
        after = double(state, np.ones(IN))
        double.state_bounds(np.ones(IN))
        assert all(leaf.dtype == np.float64 for leaf in jax.tree.leaves(after))
        np.testing.assert_allclose(
            jax.tree.leaves(after), jax.tree.leaves(cell(state, np.ones(IN))), rtol=0, atol=1e-6
        )  # the second one multiplies in float32 where XLA lets it


def test_every_weight_matters(cell):
    """A weight that the step ignored would have a zero gradient."""
    state = jax.tree.map(lambda s: jnp.linspace(-0.5, 0.5, H), cell.initial_state())
    total = lambda c: sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(c(state, jnp.ones(IN))))
    for path, leaf in jax.tree_util.tree_leaves_with_path(jitted(eqx.filter_grad(total), cell)):
        assert np.abs(leaf).max() > 1e-4, jax.tree_util.keystr(path)


def test_weights_have_the_documented_names_shapes_and_spread():
    key = jax.random.key(0)
    lstm, gru = rd.LSTMCell(IN, H, key=key), rd.GRUCell(IN, H, key=key)
    assert (lstm.weight_ih.shape, lstm.weight_hh.shape, lstm.bias.shape) == ((4 * H, IN), (4 * H, H), (4 * H,))
    assert (gru.weight_ih.shape, gru.weight_hh.shape, gru.bias.shape) == ((3 * H, IN), (3 * H, H), (3 * H,))
    assert gru.bias_n is not None
    assert rd.GRUCell(IN, H, reset="before", key=key).bias_n is None
    # Uniform on ±1/√H: the largest of 100 draws falls below 0.9 of the bound with probability 3e-5.
    assert 0.9 / np.sqrt(H) < np.abs(lstm.weight_hh).max() <= 1 / np.sqrt(H)
    assert len(np.unique(lstm.weight_hh)) == lstm.weight_hh.size
    half = eqx.filter_eval_shape(lambda: rd.GRUCell(IN, H, dtype=jnp.bfloat16, key=key))
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(half))


def test_ensembles_are_built_by_vmap():
    cells = eqx.filter_vmap(lambda key: rd.GRUCell(IN, H, key=key))(jax.random.split(jax.random.key(0), 3))
    assert cells.weight_hh.shape == (3, 3 * H, H)
    assert len(np.unique(cells.bias[:, 0])) == 3


def test_a_cell_without_input():
    cell = fill(lambda key: rd.VanillaCell(0, H, key=key))
    np.testing.assert_allclose(
        cell(jnp.ones(H), jnp.zeros(0)), np.tanh(cell.weight_hh.sum(axis=1) + cell.bias), rtol=0, atol=1e-6
    )


def test_wrong_shapes_are_named(cell):
    state = cell.initial_state()
    with pytest.raises(ValueError, match=r"input: expected shape \(3,\), got \(4,\)"):
        cell(state, jnp.zeros(4))
    with pytest.raises(ValueError, match=r"input: expected shape \(3,\), got \(7, 3\).*unroll or jax.vmap"):
        cell(state, jnp.zeros((7, 3)))
    with pytest.raises(ValueError, match=r"state.*: expected shape \(5,\), got \(6,\)"):
        cell(jax.tree.map(lambda s: jnp.zeros(6), state), jnp.zeros(IN))
    with pytest.raises(ValueError, match=r"state.*: expected floating-point entries, got int32"):
        cell(jax.tree.map(lambda s: jnp.zeros(H, int), state), jnp.zeros(IN))
    wrong = jnp.zeros(H) if isinstance(state, tuple) else (jnp.zeros(H), jnp.zeros(H))
    with pytest.raises(ValueError, match=r"state: expected"):
        cell(wrong, jnp.zeros(IN))
    with pytest.raises(ValueError, match=r"input: expected shape \(3,\)"):
        eqx.filter_jit(cell.state_bounds)(jnp.zeros(2))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda k: rd.VanillaCell(IN, H, activation="gelu", key=k), "activation: .*tanh, relu, sigmoid.*'gelu'"),
        (lambda k: rd.LeakyCell(IN, H, activation="x", key=k), "activation: "),
        (lambda k: rd.LowRankCell(IN, H, activation="x", key=k), "activation: "),
        (lambda k: rd.VanillaCell(IN, 0, key=k), "hidden_size: expected at least 1, got 0"),
        (lambda k: rd.LSTMCell(-1, H, key=k), "input_size: expected at least 0, got -1"),
        (lambda k: rd.LeakyCell(IN, H, dt=2.0, tau=1.0, key=k), "tau: .*at least dt"),
        (lambda k: rd.LeakyCell(IN, H, tau=np.ones(2), key=k), r"tau: expected a number or shape \(5,\)"),
        (lambda k: rd.LeakyCell(IN, H, dt=0.0, key=k), "dt: expected a positive step"),
        (lambda k: rd.LeakyCell(IN, H, noise=-1.0, key=k), "noise: "),
        (lambda k: rd.LeakyCell(IN, H, state_variable="voltage", key=k), "state_variable: .*'voltage'"),
        (lambda k: rd.LowRankCell(IN, H, rank=6, key=k), "rank: expected at most hidden_size = 5, got 6"),
        (lambda k: rd.LowRankCell(IN, H, rank=0, key=k), "rank: expected at least 1"),
        (lambda k: rd.GRUCell(IN, H, reset="never", key=k), "reset: .*'never'"),
        (
            lambda k: rd.GRUCell(IN, H, reset="before", bias_n_init=jax.nn.initializers.zeros, key=k),
            "bias_n_init: with reset='before'",
        ),
        (
            lambda k: rd.VanillaCell(IN, H, weight_hh_init=lambda k, s, d: jnp.zeros((2, 2)), key=k),
            r"weight_hh_init: .*returns shape \(5, 5\), got \(2, 2\)",
        ),
        (
            lambda k: rd.VanillaCell.from_weights(np.zeros((H, IN)), np.zeros((H, H)), np.zeros(4)),
            r"bias: expected shape \(5,\), got \(4,\)",
        ),
        (
            lambda k: rd.LSTMCell.from_weights(np.zeros((3 * H, IN)), np.zeros((4 * H, H)), np.zeros(4 * H)),
            r"weight_ih: expected shape \(20, 3\), got \(15, 3\)",
        ),
        (
            lambda k: rd.VanillaCell.from_weights(np.zeros(H), np.zeros((H, H)), np.zeros(H)),
            "weight_ih: expected a matrix",
        ),
        (
            lambda k: rd.VanillaCell.from_weights(np.zeros((H, IN)), np.full((H, H), np.nan), np.zeros(H)),
            "weight_hh.*holds NaN or infinity",
        ),
        (
            lambda k: rd.GRUCell.from_weights(np.zeros((15, IN)), np.zeros((15, H)), np.zeros(15)),
            r"bias_n: expected shape \(5,\)",
        ),
        (
            lambda k: rd.GRUCell.from_weights(
                np.zeros((15, IN)), np.zeros((15, H)), np.zeros(15), np.zeros(H), reset="before"
            ),
            "bias_n: expected None",
        ),
    ],
)
def test_what_cannot_be_built_says_why(build, message):
    with pytest.raises(ValueError, match=message):
        build(jax.random.key(0))
