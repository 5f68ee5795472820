"""A padded sequence gives the outputs and gradients of the sequence, whatever the padding holds."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks.random_cells import fill, jitted, normal

import rnndyn as rd

IN, H, OUT, T, LENGTH = 2, 4, 3, 9, 5


class RootCell(eqx.Module):
    """A cell with an infinite derivative at zero, where a careless mask would put its input and its state."""

    weight: jax.Array
    input_size: int = eqx.field(static=True, default=IN)

    def __call__(self, state, input):
        return jnp.sqrt(jnp.abs(self.weight @ jnp.concatenate([state, input])))

    def initial_state(self):
        return jnp.full(H, 0.5)

    def output(self, state):
        return state

    def state_bounds(self, input):
        return None


def unit_length(h):
    """A readout without a derivative at zero, the state of a cell that has read nothing."""
    return h[:OUT] / jnp.linalg.norm(h)


def linear(size):
    return lambda key: eqx.nn.Linear(size, OUT, key=key)


def stack(key):
    cells = [rd.LayerNormLSTMCell(IN, H, key=key), rd.LeakyCell(H, H, state_variable="current", key=key)]
    return rd.StackedRNN([*cells, rd.ShortTermPlasticityCell(H, H, key=key)], linear(H)(key))


MODELS = {
    "lstm": lambda key: rd.RNN(rd.LSTMCell(IN, H, key=key), linear(H)(key), learn_initial_state=True),
    "root": lambda key: rd.RNN(RootCell(jnp.ones((H, H + IN))), linear(H)(key)),
    "stacked": stack,
    "bidirectional": lambda key: rd.BidirectionalRNN(
        rd.ProjectedLSTMCell(IN, 6, 2, key=key), RootCell(jnp.ones((H, H + IN))), linear(2 + H)(key)
    ),
    "readout without a derivative at zero": lambda key: rd.BidirectionalRNN(
        rd.GRUCell(IN, H, key=key), rd.AdaptationCell(IN, H, key=key), unit_length
    ),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("place", ["after", "before"])
@pytest.mark.parametrize("name", MODELS)
def test_padding_changes_no_output_and_no_gradient(name, place):
    model, inputs = fill(MODELS[name]), normal(LENGTH, IN)
    weights = np.random.default_rng(5).normal(size=(LENGTH, OUT))
    rows = slice(0, LENGTH) if place == "after" else slice(T - LENGTH, T)
    mask = np.zeros(T, bool)
    mask[rows] = True
    padded = jnp.full((T, IN), jnp.nan).at[rows].set(inputs)

    def loss(args, mask):
        model, x = args
        outputs = model(x, mask=mask)
        shown = outputs if mask is None else outputs[rows]
        return jnp.sum(weights * shown) + jnp.sum(model.last(x, mask=mask) ** 2), shown

    run = eqx.filter_value_and_grad(loss, has_aux=True)
    (value, outputs), (d_model, d_inputs) = jitted(run, (model, padded), jnp.asarray(mask))
    (expected, short), (short_model, short_inputs) = jitted(run, (model, inputs), None)
    # Float64 sums of tens of numbers; 1e-6 is what is asked for.
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    np.testing.assert_allclose(outputs, short, rtol=0, atol=1e-12)
    np.testing.assert_allclose(d_inputs[rows], short_inputs, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(np.asarray(d_inputs)[~mask], 0)
    for found, leaf in zip(jax.tree.leaves(d_model), jax.tree.leaves(short_model), strict=True):
        np.testing.assert_allclose(found, leaf, rtol=1e-9, atol=1e-12)
        assert np.isfinite(leaf).all()


@pytest.mark.usefixtures("x64")
def test_both_sequences_of_a_sequence_to_sequence_network_may_be_padded():
    S = 4

    def build(key):
        encoder = rd.BidirectionalRNN(rd.GRUCell(IN, 2, key=key), rd.GRUCell(IN, 2, key=key), lambda h: h)
        attention = rd.AdditiveAttention(H, 4, 3, key=key)
        return rd.Seq2Seq(encoder, rd.GRUCell(1 + 4, H, key=key), attention, eqx.nn.Linear(H + 4, OUT, key=key))

    model = fill(build)
    inputs, read = normal(LENGTH, IN), normal(S, 1, seed=2)
    padded = jnp.full((T, IN), jnp.nan).at[:LENGTH].set(inputs)
    padded_read = jnp.full((7, 1), jnp.inf).at[:S].set(read)
    masks = jnp.arange(T) < LENGTH, jnp.arange(7) < S
    run = eqx.filter_value_and_grad(
        lambda model, inputs, read, *masks: jnp.sum(jnp.sin(model(inputs, read, *masks)[:S])),
    )
    value, gradient = jitted(run, model, padded, padded_read, *masks)
    expected, short = jitted(run, model, inputs, read, None, None)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    for found, leaf in zip(jax.tree.leaves(gradient), jax.tree.leaves(short), strict=True):
        np.testing.assert_allclose(found, leaf, rtol=1e-9, atol=1e-12)
        assert np.isfinite(leaf).all()
