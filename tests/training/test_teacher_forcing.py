"""Between the teacher and free running: the two ends against the model itself, the middle against linear algebra."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnndyn as rd

KEY = jax.random.key(0)
D, H, T = 2, 5, 10
scheduled = eqx.filter_jit(rd.training.scheduled_sampling)
forced = eqx.filter_jit(rd.training.generalized_teacher_forcing)
# Float64 sums over a few steps.
FLOAT64 = {"rtol": 0, "atol": 1e-12}


@pytest.fixture
def series(x64):
    return jnp.asarray(np.random.default_rng(0).normal(size=(T, D)))


def make(cell=rd.GRUCell, input_size=D, bias=True):
    cell_key, readout_key = jax.random.split(KEY)
    return rd.RNN(cell(input_size, H, key=cell_key), eqx.nn.Linear(H, D, use_bias=bias, key=readout_key))


def test_scheduled_sampling_goes_from_teacher_forcing_to_free_running(series):
    model = make(rd.LSTMCell)
    np.testing.assert_allclose(scheduled(model, series, 1.0, key=KEY), model(series), **FLOAT64)
    free = model.generate(series[0], T, feed_back=lambda output: 2 * output)
    double = lambda output: 2 * output
    np.testing.assert_allclose(scheduled(model, series, 0.0, key=KEY, feed_back=double), free, **FLOAT64)


def test_scheduled_sampling_reads_the_true_input_as_often_as_asked(series):
    # A cell that keeps what it has read shows which it was: its own outputs are marked by 100.
    reading = rd.RNN(
        eqx.tree_at(
            lambda c: c.weight_hh,
            rd.VanillaCell.from_weights(np.eye(D), np.zeros((D, D)), np.zeros(D), activation="identity"),
            np.zeros((D, D)),
        ),
        lambda h: h,
    )
    marked = eqx.filter_vmap(
        lambda key: rd.training.scheduled_sampling(reading, series, 0.3, key=key, feed_back=lambda y: y * 0 + 100)
    )(jax.random.split(KEY, 500))
    was_true = np.asarray(marked)[:, 1:, 0] != 100
    # Four standard errors of a share of 4500 independent steps.
    assert abs(was_true.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / was_true.size)
    assert (np.asarray(marked)[:, 0] == np.asarray(series[0])).all()
    # Independent at neighbouring steps: the covariance of two indicators has the standard error 0.21 / sqrt(4000).
    assert abs(np.cov(was_true[:, :-1].ravel(), was_true[:, 1:].ravel())[0, 1]) < 4 * 0.21 / np.sqrt(4000)


def test_tokens_are_drawn_from_the_logits_and_pass_no_gradient(x64):
    cell_key, readout_key = jax.random.split(KEY)
    model = rd.TokenRNN(rd.OneHot(4), rd.RNN(rd.GRUCell(4, H, key=cell_key), eqx.nn.Linear(H, 4, key=readout_key)))
    tokens = jnp.array([1, 3, 2, 0, 0, 1])
    np.testing.assert_allclose(scheduled(model, tokens, 1.0, key=KEY, feed_back=jnp.argmax), model(tokens), **FLOAT64)
    draw = lambda logits, key: jax.random.categorical(key, 1000 * logits)
    free = scheduled(model, tokens, 0.0, key=KEY, feed_back=draw, sampling_key=KEY)
    np.testing.assert_allclose(free, scheduled(model, tokens, 0.0, key=KEY, feed_back=jnp.argmax), **FLOAT64)
    # The same tokens read from outside give the same gradient.
    read = jnp.concatenate([tokens[:1], jnp.argmax(free, axis=1)[:-1]])
    own = eqx.filter_grad(lambda m: jnp.sum(scheduled(m, tokens, 0.0, key=KEY, feed_back=jnp.argmax)[-1] ** 2))(model)
    outside = eqx.filter_grad(lambda m: jnp.sum(m(read)[-1] ** 2))(model)
    np.testing.assert_allclose(own.cell.weight_hh, outside.cell.weight_hh, **FLOAT64)


def test_generalised_forcing_goes_from_free_running_to_the_teacher(series):
    model = make(input_size=0)
    start = jnp.asarray(np.random.default_rng(1).normal(size=H))
    free = jax.vmap(model.read)(rd.trajectory(rd.as_map(model.cell), start, T))
    np.testing.assert_allclose(forced(model, series, 0.0, state=start), free, **FLOAT64)
    # At alpha = 1 the state that is stepped has exactly the true output.
    x, outputs = start, []
    weight, bias = np.asarray(model.readout.weight), np.asarray(model.readout.bias)
    for target in np.asarray(series):
        x = np.asarray(model.cell(x, np.zeros(0)))
        outputs.append(weight @ x + bias)
        x = x + np.linalg.lstsq(weight, target - outputs[-1])[0]
        np.testing.assert_allclose(weight @ x + bias, target, **FLOAT64)
    np.testing.assert_allclose(forced(model, series, 1.0, state=start), outputs, **FLOAT64)


def test_forcing_is_the_mean_of_state_and_teacher(series):
    # The state is read out whole: x <- (1 - alpha) x + alpha x_true, in the words of Hess et al. (2023).
    cell = rd.VanillaCell.from_weights(np.eye(D), np.array([[0.5, 1.0], [-1.0, 0.2]]), np.array([0.1, -0.2]))
    readout = eqx.nn.Linear(D, D, key=KEY)
    readout = eqx.tree_at(lambda r: (r.weight, r.bias), readout, (jnp.eye(D), jnp.zeros(D)))
    inputs = 0.3 * series[::-1]
    x, outputs = jnp.zeros(D), []
    for target, u in zip(series, inputs):
        x = cell(x, u)
        outputs.append(x)
        x = 0.75 * x + 0.25 * target
    ours = forced(rd.RNN(cell, readout), series, 0.25, inputs=inputs, state=jnp.zeros(D))
    np.testing.assert_allclose(ours, outputs, **FLOAT64)
    # One strength for each step: forced in the first half, free in the second.
    model, alphas = rd.RNN(cell, readout), (np.arange(T) < T // 2).astype(float)
    halves = forced(model, series, alphas, inputs=inputs, state=jnp.zeros(D))
    free = forced(model, series[5:], 0.0, inputs=inputs[5:], state=series[4])
    np.testing.assert_allclose(halves[5:], free, **FLOAT64)


def test_forcing_bounds_the_gradient_of_a_chaotic_map(x64):
    # The map x -> 2 x + b, read out whole: d x_T / d x_0 = (2 (1 - alpha))^(T - 1) * 2 exactly.
    cell = rd.VanillaCell.from_weights(np.zeros((1, 0)), np.array([[2.0]]), np.array([0.1]), activation="identity")
    readout = eqx.tree_at(lambda r: (r.weight, r.bias), eqx.nn.Linear(1, 1, key=KEY), (jnp.ones((1, 1)), jnp.zeros(1)))
    model, targets = rd.RNN(cell, readout), jnp.ones((20, 1))
    slope = lambda alpha: jax.jacobian(lambda x: forced(model, targets, alpha, state=x)[-1])(jnp.ones(1))[0, 0]
    # At 1 - e^-lambda = 1/2 the gradient neither grows nor shrinks.
    for alpha in (0.0, 0.3, 0.5, 0.9):
        np.testing.assert_allclose(slope(alpha), 2 * (2 * (1 - alpha)) ** 19, rtol=1e-10)


def test_nearest_state_gives_the_output(series):
    model = make(rd.VanillaCell)
    x = jnp.asarray(np.random.default_rng(2).normal(size=H))
    nearest = rd.training.nearest_state(model, x, series[0])
    np.testing.assert_allclose(model.read(nearest), series[0], **FLOAT64)
    # Nearest: the way there has no part that the readout does not see.
    null = np.linalg.svd(model.readout.weight)[2][D:]
    np.testing.assert_allclose(null @ (nearest - x), 0, **FLOAT64)


def test_the_sigmoid_schedule_passes_through_its_points():
    schedule = rd.training.inverse_sigmoid_decay(100, sharpness=4)
    np.testing.assert_allclose([schedule(0), schedule(100), schedule(200)], 1 / (1 + np.exp([-4, 0, 4])), rtol=1e-6)
    k = np.e**3  # Bengio's curve k / (k + e^(i / k)) with k = e^3
    np.testing.assert_allclose(
        rd.training.inverse_sigmoid_decay(3 * k, 3)(np.arange(50)), k / (k + np.exp(np.arange(50) / k)), rtol=1e-5
    )


def test_padding_and_lengths():
    padded, mask = rd.training.pad_sequences([np.ones((3, 2)), 2 * np.ones((1, 2))], 4)
    assert padded[..., 0].tolist() == [[1, 1, 1, 0], [2, 0, 0, 0]]
    assert mask.tolist() == [[True, True, True, False], [True, False, False, False]]
    assert rd.training.pad_sequences([[1, 2], [3]])[0].tolist() == [[1, 2], [3, 0]]
    for call, message in [
        (lambda: rd.training.length_mask([3, 5], 4), "lengths: expected 1 to 4, .* sequence 1 has 5"),
        (lambda: rd.training.length_mask([3, 0], 4), "lengths: expected 1 to 4, .* sequence 1 has 0"),
        (lambda: rd.training.length_mask([1.5], 4), "lengths: expected integers"),
        (lambda: rd.training.pad_sequences([np.ones(5)], 4), "lengths: expected 1 to 4, .* sequence 0 has 5"),
        (lambda: rd.training.pad_sequences([np.ones((2, 1)), np.ones((2, 2))]), "sequences: expected one or more"),
        (lambda: rd.training.pad_sequences([]), "sequences: expected one or more"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()


def test_misfits_are_named(series):
    model, tf = make(), rd.training
    for call, message in [
        (lambda: tf.scheduled_sampling(model, series, 1.5, key=KEY), "probability: expected a number between 0 and 1"),
        (lambda: tf.scheduled_sampling(model, series[:0], 0.5, key=KEY), "inputs: expected at least one step"),
        (
            lambda: tf.scheduled_sampling(model, series, 0.5, key=KEY, feed_back=lambda y: y[:1]),
            r"feed_back: expected it to give an input of shape \(2,\), got \(1,\)",
        ),
        (lambda: tf.generalized_teacher_forcing(model, series, -0.1), "alpha: expected a number between 0 and 1"),
        (lambda: tf.generalized_teacher_forcing(model, series[:, :1], 0.1), r"targets: expected shape \(T, 2\)"),
        (lambda: tf.generalized_teacher_forcing(model, series, 0.1, inputs=series[:3]), "inputs: expected one for"),
        (lambda: tf.generalized_teacher_forcing(make(rd.LSTMCell), series, 0.1), "model: expected its state to be one"),
        (
            lambda: tf.generalized_teacher_forcing(rd.RNN(model.cell, lambda h: h), series, 0.1),
            "model: expected a linear readout",
        ),
        (lambda: tf.inverse_sigmoid_decay(0), "half_life: expected a positive number"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
