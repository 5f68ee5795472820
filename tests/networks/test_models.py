"""Networks of cells and readouts: each use against a loop over the cells."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks.random_cells import fill, jitted, normal

import rnndyn as rd

IN, H, OUT, T = 2, 6, 3, 12
# Float64 sums over a dozen contracting steps.
FLOAT64 = {"rtol": 0, "atol": 1e-13}


@pytest.fixture
def inputs(x64):
    return normal(T, IN)


def linear(size, out=OUT):
    return fill(lambda key: eqx.nn.Linear(size, out, key=key), seed=9)


def gru(input_size, hidden_size=H):
    return fill(lambda key: rd.GRUCell(input_size, hidden_size, key=key))


def lstm(input_size, hidden_size=H):
    return fill(lambda key: rd.LSTMCell(input_size, hidden_size, key=key))


@pytest.fixture(params=["lstm", "leaky current"])
def cell(request, x64):
    kinds = {
        "lstm": rd.LSTMCell,
        "leaky current": lambda *sizes, key: rd.LeakyCell(*sizes, state_variable="current", key=key),
    }
    return fill(lambda key: kinds[request.param](IN, H, key=key))


def test_streaming_is_calling_the_cell(x64, inputs):
    model = rd.RNN(lstm(IN), linear(H))
    outputs = jitted(model, inputs)
    assert outputs.shape == (T, OUT)
    state = model.start()
    for t, input in enumerate(inputs):
        state = model.cell(state, input)
        np.testing.assert_allclose(outputs[t], model.readout(model.cell.output(state)), **FLOAT64)


def test_the_readout_sees_the_output_of_the_state(cell, inputs):
    model = rd.RNN(cell, linear(H))
    states = model.states(inputs)
    read = states[0] if isinstance(states, tuple) else states
    if isinstance(cell, rd.LeakyCell):
        read = np.tanh(states)
    expected = read @ model.readout.weight.T + model.readout.bias
    np.testing.assert_allclose(jitted(model, inputs), expected, **FLOAT64)
    np.testing.assert_allclose(jitted(model.last, inputs), expected[-1], **FLOAT64)


def test_last_is_the_last_valid_output(cell, inputs):
    model = rd.RNN(cell, linear(H))
    mask = jnp.arange(T) < 7
    np.testing.assert_allclose(jitted(model.last, inputs, mask=mask), jitted(model, inputs[:7])[-1], **FLOAT64)


def test_generate_holds_the_input_or_feeds_the_output_back(cell, inputs):
    model = rd.RNN(cell, linear(H, IN))
    u = inputs[0]
    np.testing.assert_allclose(jitted(model.generate, u, 5), jitted(model, jnp.tile(u, (5, 1))), **FLOAT64)
    outputs = jitted(model.generate, u, 5, feed_back=lambda output: 2 * output)
    assert outputs.shape == (5, IN)
    fed = jnp.concatenate([u[None], 2 * outputs[:-1]])
    np.testing.assert_allclose(outputs, jitted(model, fed), **FLOAT64)
    prompt = jax.tree.map(lambda s: s[-1], model.states(inputs))
    np.testing.assert_allclose(
        jitted(model.generate, u, 3, prompt), model(jnp.concatenate([inputs, jnp.tile(u, (3, 1))]))[-3:], **FLOAT64
    )


def test_generate_keeps_one_dtype():
    """One-hot feedback of integers into a float network: the loop's input must not change its type."""
    model = rd.RNN(gru(4), linear(H, 4))
    start = jax.nn.one_hot(1, 4, dtype=jnp.int32)
    outputs = jitted(
        model.generate, start, 6, feed_back=lambda logits: jax.nn.one_hot(jnp.argmax(logits), 4, dtype=jnp.int32)
    )
    inputs = jnp.concatenate([start[None], jax.nn.one_hot(jnp.argmax(outputs[:-1], axis=1), 4, dtype=jnp.int32)])
    np.testing.assert_allclose(outputs, jitted(model, inputs), rtol=0, atol=1e-6)  # float32


def test_a_learned_initial_state_is_a_parameter(cell, inputs):
    model = rd.RNN(cell, linear(H), learn_initial_state=True)
    fixed = rd.RNN(cell, linear(H))
    np.testing.assert_allclose(jitted(model, inputs), fixed(inputs), **FLOAT64)
    gradient = jitted(eqx.filter_grad(lambda m: jnp.sum(m(inputs) ** 2)), model)
    assert all(np.abs(leaf).max() > 1e-8 for leaf in jax.tree.leaves(gradient.learned_state))
    assert jax.tree.leaves(fixed.learned_state) == []
    moved = eqx.tree_at(lambda m: m.learned_state, model, jax.tree.map(lambda s: s + 0.5, model.learned_state))
    np.testing.assert_allclose(moved(inputs), fixed(inputs, moved.learned_state), **FLOAT64)


def test_stacked_layers_read_the_layer_below(inputs):
    first = lstm(IN, 4)
    second = fill(lambda key: rd.LeakyCell(4, 5, state_variable="current", key=key))
    third = fill(lambda key: eqx.nn.GRUCell(5, H, key=key))
    model = rd.StackedRNN([first, second, third], linear(H), learn_initial_state=True)
    below = rd.unroll(first, inputs)[0]
    below = jnp.tanh(rd.unroll(second, below))
    states = rd.unroll(third, below)
    np.testing.assert_allclose(jitted(model, inputs), jax.vmap(model.readout)(states), **FLOAT64)
    np.testing.assert_allclose(model.states(inputs)[2], states, **FLOAT64)
    mask = jnp.arange(T) < 5
    np.testing.assert_allclose(jitted(model.last, inputs, mask=mask), jitted(model, inputs[:5])[-1], **FLOAT64)
    gradient = jitted(eqx.filter_grad(lambda m: jnp.sum(m(inputs) ** 2)), model)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))


def test_noise_reaches_the_layers_that_have_it(inputs):
    key = jax.random.key(3)
    noisy = fill(lambda key: rd.LeakyCell(IN, H, noise=0.5, key=key))
    model = rd.StackedRNN([noisy, gru(H)], linear(H))
    clean, one, two = jitted(model, inputs), jitted(model, inputs, key=key), jitted(model, inputs, key=key)
    np.testing.assert_array_equal(one, two)
    assert np.abs(one - clean).max() > 1e-3
    np.testing.assert_allclose(jitted(model, inputs, key=key), jitted(model, inputs, key=key, remat_every=5), **FLOAT64)


def test_bidirectional_outputs_see_the_whole_sequence(inputs):
    forward, backward = gru(IN, 4), lstm(IN, 5)
    model = rd.BidirectionalRNN(forward, backward, linear(9))
    ahead = rd.unroll(forward, inputs)
    back = rd.unroll(backward, inputs[::-1])[0][::-1]
    expected = jax.vmap(model.readout)(jnp.concatenate([ahead, back], axis=1))
    np.testing.assert_allclose(jitted(model, inputs), expected, **FLOAT64)
    both = jnp.concatenate([ahead[-1], back[0]])
    np.testing.assert_allclose(jitted(model.last, inputs), model.readout(both), **FLOAT64)
    dependence = jitted(jax.jacobian(lambda x: model(x)), inputs)
    assert np.abs(dependence).max(axis=(1, 3)).min() > 0  # every output depends on every input


def test_bidirectional_with_padding(inputs):
    model = rd.BidirectionalRNN(gru(IN, 4), gru(IN, 4), linear(8), learn_initial_state=True)
    model = eqx.tree_at(lambda m: m.learned_states, model, jax.tree.map(lambda s: s + 0.2, model.learned_states))
    mask = jnp.arange(T) < 7
    padded = inputs.at[7:].set(jnp.inf)
    np.testing.assert_allclose(jitted(model, padded, mask)[:7], jitted(model, inputs[:7]), **FLOAT64)
    np.testing.assert_allclose(jitted(model.last, padded, mask), jitted(model.last, inputs[:7]), **FLOAT64)


def test_models_train_in_a_batch_and_an_ensemble(x64):
    members = [
        fill(lambda key: rd.RNN(rd.GRUCell(IN, H, key=key), eqx.nn.Linear(H, OUT, key=key)), seed=k) for k in range(3)
    ]
    ensemble = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
    batch = normal(5, T, IN)
    run = eqx.filter_vmap(lambda m, x: jax.vmap(m)(x), in_axes=(eqx.if_array(0), None))
    outputs = jitted(run, ensemble, batch)
    assert outputs.shape == (3, 5, T, OUT)
    np.testing.assert_allclose(outputs[1, 2], members[1](batch[2]), **FLOAT64)


def test_any_callable_reads_out(inputs):
    model = rd.RNN(gru(IN), lambda h: h[:2])
    np.testing.assert_allclose(jitted(model, inputs), model.states(inputs)[:, :2], **FLOAT64)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: rd.RNN(gru(IN, H), linear(H + 1)),
            r"readout: it cannot read an output of shape \(6,\)",
        ),
        (lambda: rd.RNN(lambda s, u: s, linear(H)), "state: a plain callable has no initial state"),
        (lambda: rd.StackedRNN([], linear(H)), "cells: expected at least one cell"),
        (
            lambda: rd.StackedRNN([gru(IN, 4), gru(5, H)], linear(H)),
            r"cells: layer 1 cannot read the output of layer 0, of shape \(4,\): input: expected shape \(5,\)",
        ),
        (
            lambda: rd.BidirectionalRNN(gru(IN, H), gru(IN, H), linear(H)),
            r"readout: it cannot read an output of shape \(6,\) and \(6,\)",
        ),
        (lambda: rd.RNN(gru(IN, H), linear(H))(np.zeros((T, 5))), r"inputs: .*\(T, 2\), got \(12, 5\)"),
        (lambda: rd.RNN(gru(IN, H), linear(H)).generate(np.zeros(IN), 0), "num_steps: "),
        (
            lambda: rd.RNN(gru(IN, H), linear(H)).generate(np.zeros(IN), 4, feed_back=lambda y: y),
            r"feed_back: expected it to give an input of shape \(2,\), got \(3,\)",
        ),
        (
            lambda: rd.StackedCell([gru(IN, H)])(jnp.zeros(H), jnp.zeros(IN)),
            "state: expected a tuple of 1 states",
        ),
    ],
)
def test_misfits_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
