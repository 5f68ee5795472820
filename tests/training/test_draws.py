"""Keys reach every way a network is run: each equals a plain loop over its steps, with the keys of those steps."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnndyn as rd

tr = rd.training
KEY, DRAWS = jax.random.key(0), jax.random.key(7)
I = H = 3  # noqa: E741
T = 5
INPUTS = np.random.default_rng(0).normal(size=(T, I)).astype(np.float32)
TARGETS = np.random.default_rng(1).normal(size=(T, H)).astype(np.float32)
NOISY = rd.RNN(rd.LeakyCell(I, H, noise=0.3, key=KEY), eqx.nn.Linear(H, H, key=KEY))
DROPPING = rd.RNN(rd.GRUCell(I, H, key=KEY), eqx.nn.Sequential([rd.Dropout(0.5), eqx.nn.Linear(H, H, key=KEY)]))
VARIATIONAL = rd.RNN(rd.DropoutCell(rd.VanillaCell(I, H, key=KEY), 0.4, variational=True), eqx.nn.Linear(H, H, key=KEY))
square = lambda output, target: jnp.sum((output - target) ** 2)


def by_hand(model, keys, inputs=INPUTS):
    """Every output, from calls of the cell and nothing else."""
    state, outputs = model.cell.initial_state(), []
    for input, key in zip(inputs, keys):
        state = model.cell(state, input, key=key)
        outputs.append(model.readout(model.cell.output(state)))
    return jnp.stack(outputs)


def assert_close(found, expected):
    # Float32, tens of operations: the same ones, compiled or not.
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_every_way_to_run_a_noisy_network_draws_the_same():
    keys = jax.random.split(DRAWS, T)
    expected = by_hand(NOISY, keys)
    assert not np.allclose(expected, NOISY(INPUTS))
    assert_close(NOISY(INPUTS, key=DRAWS), expected)
    # ε = 1 and α = 0 are the network on its inputs.
    assert_close(tr.scheduled_sampling(NOISY, INPUTS, 1.0, key=KEY, noise_key=DRAWS), expected)
    assert_close(tr.generalized_teacher_forcing(NOISY, TARGETS, 0.0, inputs=INPUTS, key=DRAWS), expected)
    assert_close(rd.bptt(NOISY.cell, NOISY.readout, INPUTS, TARGETS, square, key=DRAWS).outputs, expected)
    held = by_hand(NOISY, keys, [INPUTS[0]] * T)
    assert_close(NOISY.generate(INPUTS[0], T, key=DRAWS), held)
    free = NOISY.generate(INPUTS[0], T, feed_back=lambda y: y, key=DRAWS)
    assert_close(free, by_hand(NOISY, keys, np.concatenate([INPUTS[:1], free[:-1]])))


def test_a_stream_draws_from_the_number_of_the_step():
    expected = by_hand(NOISY, [jax.random.fold_in(DRAWS, t) for t in range(T)])
    stream = rd.Stream(NOISY, key=DRAWS)
    assert_close(jnp.stack([stream(input) for input in INPUTS]), expected)
    # What is drawn once for the sequence stays the same over it.
    cell = VARIATIONAL.cell.sample(jax.random.fold_in(DRAWS, 2**31 - 1))
    stream, state = rd.Stream(VARIATIONAL, key=DRAWS), cell.initial_state()
    for input in INPUTS:
        state = cell(state, input)
        assert_close(stream(input), VARIATIONAL.readout(state))


def test_tokens_draw_as_the_vectors_that_they_stand_for():
    model = rd.TokenRNN(rd.OneHot(I), NOISY)
    state, output = model.step(model.start(), np.int32(1), key=DRAWS)
    expected = NOISY.cell(NOISY.start(), np.eye(I, dtype=np.float32)[1], key=DRAWS)
    assert_close(state, expected)
    assert_close(output, NOISY.readout(expected))
    assert_close(model.read(state, key=DRAWS), output)
    stream = rd.Stream(model, key=DRAWS)
    first = NOISY.cell(NOISY.start(), np.eye(I, dtype=np.float32)[1], key=jax.random.fold_in(DRAWS, 0))
    assert_close(stream(1), NOISY.readout(first))


def test_dropout_in_a_readout_acts_in_training():
    # 2 / 2^(-1) = every kept entry is doubled: the mean over many draws is the plain output, a single one is not.
    batch = tr.Batch(INPUTS[None], TARGETS[None])
    expected = square(DROPPING(INPUTS, key=jax.random.split(DRAWS, 1)[0]), TARGETS) / TARGETS.size
    plain = square(DROPPING(INPUTS), TARGETS) / TARGETS.size
    loss = tr.over_trials(tr.mean_squared_error)
    assert_close(loss(DROPPING, batch, key=DRAWS), expected)
    assert abs(expected - plain) > 1e-2
    window = next(iter(tr.Windows(batch, T)))
    truncated = tr.truncated_bptt(tr.mean_squared_error)
    assert_close(truncated(DROPPING, window, tr.start_states(DROPPING, 1), key=DRAWS)[0], expected)
    assert_close(rd.bptt(DROPPING.cell, DROPPING.readout, INPUTS, TARGETS, square).loss, plain * TARGETS.size)


def test_bptt_gives_the_gradient_of_the_weights_that_are_stored():
    cell = rd.ConstrainedCell(
        rd.LeakyCell(I, H, noise=0.3, key=KEY),
        signs=[1, 1, -1],
        mask=~np.eye(H, dtype=bool),
        input_mask=np.eye(H, I) > 0,
    )
    readout = NOISY.readout
    found = rd.bptt(cell, readout, INPUTS, TARGETS, square, key=DRAWS, window=T)

    def loss(cell):
        return jnp.sum((by_hand(rd.RNN(cell, readout), jax.random.split(DRAWS, T)) - TARGETS) ** 2)

    expected = eqx.filter_jit(eqx.filter_grad(loss))(cell)
    assert set(found.gradient) == {f"cell.cell.{name}" for name in ("weight_ih", "weight_hh", "bias")} | {
        "readout.weight",
        "readout.bias",
    }
    for name in ("weight_ih", "weight_hh", "bias"):
        exact = getattr(expected.cell, name)
        np.testing.assert_allclose(found.gradient[f"cell.cell.{name}"], exact, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.truncated.gradient[f"cell.cell.{name}"], exact, rtol=1e-4, atol=1e-5)
    # Where there is no connection there is no gradient, and |w| turns that of a negative weight around.
    assert np.all(np.diag(found.gradient["cell.cell.weight_hh"]) == 0)


def test_masks_of_a_sequence_are_drawn_once_in_bptt():
    found = rd.bptt(VARIATIONAL.cell, VARIATIONAL.readout, INPUTS, TARGETS, square, key=DRAWS)
    assert_close(found.outputs, VARIATIONAL(INPUTS, key=DRAWS))
    assert "cell.cell.weight_hh" in found.gradient


def test_a_key_for_what_draws_nothing_is_refused():
    quiet = rd.RNN(rd.GRUCell(I, H, key=KEY), eqx.nn.Linear(H, H, key=KEY))
    for call, message in [
        (lambda: rd.Stream(quiet, key=DRAWS), "key: this RNN has no noise"),
        (lambda: tr.scheduled_sampling(quiet, INPUTS, 1.0, key=KEY, noise_key=DRAWS), "noise_key: this RNN"),
        (lambda: tr.generalized_teacher_forcing(quiet, TARGETS, 0.0, inputs=INPUTS, key=DRAWS), "key: GRUCell"),
        (lambda: rd.bptt(quiet.cell, quiet.readout, INPUTS, TARGETS, square, key=DRAWS), "key: GRUCell has no noise"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()


def test_a_readout_that_only_looks_linear_is_refused():
    class Squashed(eqx.nn.Linear):
        def __call__(self, x, *, key=None):
            return jnp.tanh(super().__call__(x))

    model = rd.RNN(rd.VanillaCell(I, H, key=KEY), Squashed(H, H, key=KEY))
    for call in (
        lambda: tr.generalized_teacher_forcing(model, TARGETS, 0.5, inputs=INPUTS),
        lambda: tr.nearest_state(model, jnp.zeros(H), jnp.zeros(H)),
    ):
        with pytest.raises(ValueError, match=r"model: expected a linear readout, .*got a Squashed"):
            call()
