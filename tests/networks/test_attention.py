"""Attention against NumPy, and sequence to sequence: masks that hide padding, and a task only attention solves."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rnndyn as rd
from rnndyn.networks.attention import attend

KEY = jax.random.key(0)
T, D, Q, A = 7, 3, 4, 5
# Float64 sums of a few terms.
FLOAT64 = {"rtol": 0, "atol": 1e-13}
rng = np.random.default_rng(0)
KEYS, QUERY, MASK = rng.normal(size=(T, D)), rng.normal(size=Q), np.arange(T) < 4


def softmax(scores):
    return np.exp(scores) / np.exp(scores).sum()


def test_scores_and_context_by_hand(x64):
    dot = rd.DotProductAttention(Q, D, A, key=KEY)
    projected = KEYS @ np.asarray(dot.key.weight).T
    weights = softmax(projected @ (np.asarray(dot.query.weight) @ QUERY) / np.sqrt(A))
    found = eqx.filter_jit(dot)(QUERY, KEYS)
    np.testing.assert_allclose(found.weights, weights, **FLOAT64)
    np.testing.assert_allclose(found.context, weights @ KEYS, **FLOAT64)
    add = rd.AdditiveAttention(Q, D, A, key=KEY)
    of_query = np.asarray(add.query.weight) @ QUERY + np.asarray(add.query.bias)
    hidden = np.tanh(of_query + KEYS @ np.asarray(add.key.weight).T)
    expected = softmax(hidden @ np.asarray(add.score.weight)[0])
    np.testing.assert_allclose(eqx.filter_jit(add)(QUERY, KEYS).weights, expected, **FLOAT64)


@pytest.mark.parametrize("kind", [rd.DotProductAttention, rd.AdditiveAttention])
def test_padding_has_no_influence_and_no_gradient(x64, kind):
    attention = kind(Q, D, A, key=KEY)
    padded = np.where(MASK[:, None], KEYS, np.nan)
    call = eqx.filter_jit(attention)
    short, long = call(QUERY, KEYS[:4]), call(QUERY, padded, MASK)
    np.testing.assert_allclose(long.context, short.context, **FLOAT64)
    np.testing.assert_allclose(long.weights, np.append(short.weights, [0, 0, 0]), **FLOAT64)
    loss = lambda attention, query, keys, mask: jnp.sum(attention(query, keys, mask).context ** 3)
    gradient = eqx.filter_jit(eqx.filter_grad(lambda inputs, mask: loss(*inputs, mask)))
    of_short, of_long = gradient((attention, QUERY, KEYS[:4]), None), gradient((attention, QUERY, padded), MASK)
    for ours, expected in zip(jax.tree.leaves(of_long[:2]), jax.tree.leaves(of_short[:2]), strict=True):
        np.testing.assert_allclose(ours, expected, **FLOAT64)
    np.testing.assert_allclose(of_long[2][:4], of_short[2], **FLOAT64)
    assert (np.asarray(of_long[2][4:]) == 0).all()


def test_of_nothing_the_context_is_zero(x64):
    found = attend(jnp.asarray(KEYS[:, 0]), jnp.asarray(KEYS), np.zeros(T, bool))
    assert np.asarray(found.context).tolist() == [0, 0, 0]
    gradient = jax.grad(lambda s: jnp.sum(attend(s, jnp.asarray(KEYS), np.zeros(T, bool)).context))(KEYS[:, 0])
    assert (np.asarray(gradient) == 0).all()


def make(bidirectional=True, symbols=5, hidden=8):
    keys = jax.random.split(KEY, 5)
    forward, backward = (rd.GRUCell(symbols, hidden, key=k) for k in keys[:2])
    encoder = rd.BidirectionalRNN(forward, backward, lambda h: h) if bidirectional else rd.RNN(forward, lambda h: h)
    size = 2 * hidden if bidirectional else hidden
    decoder = rd.GRUCell(symbols + size, hidden, key=keys[2])
    attention = rd.DotProductAttention(hidden, size, 8, key=keys[3])
    return rd.Seq2Seq(encoder, decoder, attention, eqx.nn.Linear(hidden + size, symbols, key=keys[4]))


def test_decoder_by_hand(x64):
    model = make()
    inputs, given = rng.normal(size=(6, 5)), rng.normal(size=(3, 5))
    outputs, weights = eqx.filter_jit(model.run)(inputs, given)

    @eqx.filter_jit
    def by_hand(model):
        keys, s, rows = model.encoder(inputs), jnp.zeros(8), []
        for u in given:
            found = model.attention(s, keys)
            s = model.decoder(s, jnp.concatenate([u, found.context]))
            rows.append((model.readout(jnp.concatenate([s, found.context])), found.weights))
        return rows

    for i, (output, row) in enumerate(by_hand(model)):
        np.testing.assert_allclose(outputs[i], output, **FLOAT64)
        np.testing.assert_allclose(weights[i], row, **FLOAT64)
    free = eqx.filter_jit(model.generate)(inputs, given[0], 3, feed_back=lambda y: jnp.tanh(y))
    fed = jnp.concatenate([given[:1], jnp.tanh(free[:-1])])
    np.testing.assert_allclose(free, eqx.filter_jit(model)(inputs, fed), **FLOAT64)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_padding_of_the_source_has_no_influence(x64, bidirectional):
    model = make(bidirectional)
    inputs, given = rng.normal(size=(T, 5)), rng.normal(size=(3, 5))
    padded = np.where(MASK[:, None], inputs, np.inf)
    run = eqx.filter_jit(model.run)
    short, long = run(inputs[:4], given), run(padded, given, MASK)
    np.testing.assert_allclose(long[0], short[0], **FLOAT64)
    assert (np.asarray(long[1])[:, 4:] == 0).all()


@pytest.mark.slow
def test_learns_to_reverse_sequences_of_any_length():
    """The answer to "abc" is "cba": the first answer is at the end, wherever that is."""
    longest, symbols = 6, 4
    end, width = symbols, symbols + 1

    def batch(key):
        length_key, symbol_key = jax.random.split(key)
        lengths = jax.random.randint(length_key, (32,), 2, longest + 1)
        tokens = jax.random.randint(symbol_key, (32, longest), 0, symbols)
        mask = jnp.arange(longest) < lengths[:, None]
        places = jnp.clip(lengths[:, None] - 1 - jnp.arange(longest), 0)
        return tokens, jnp.take_along_axis(tokens, places, axis=1), mask

    one_hot = lambda tokens: jax.nn.one_hot(tokens, width)
    shift = lambda answer: jnp.concatenate([jnp.full((1,), end), answer[:-1]])

    def loss(model, batch):
        def trial(tokens, answer, mask):
            outputs = model(one_hot(tokens), one_hot(shift(answer)), mask)
            return rd.training.softmax_cross_entropy(outputs, answer, mask)

        return jnp.mean(jax.vmap(trial)(*batch))

    trained = rd.fit(
        make(True, width, 16), loss, batch, optax.adam(1e-2), num_steps=400, max_grad_norm=1.0, key=KEY
    ).model
    tokens, answers, mask = batch(jax.random.key(99))
    feed_back = lambda logits: one_hot(jnp.argmax(logits))
    write = lambda x, m: trained.generate(one_hot(x), one_hot(end), longest, m, feed_back=feed_back)
    written = np.argmax(eqx.filter_jit(jax.vmap(write))(tokens, mask), axis=-1)
    right = (written == answers)[np.asarray(mask)]
    # Chance is 1/4; what is left are rare mistakes of a short training.
    assert right.mean() > 0.95


def test_misfits_are_named():
    model, dot = make(), rd.DotProductAttention(Q, D, A, key=KEY)
    inputs = np.zeros((4, 5))
    for call, message in [
        (lambda: dot(QUERY, KEYS[0]), r"keys: expected shape \(T, D\)"),
        (lambda: dot(QUERY, KEYS, MASK[:3]), r"mask: expected booleans of shape \(7,\), got bool of shape \(3,\)"),
        (lambda: dot(QUERY, KEYS, MASK.astype(float)), "mask: expected booleans"),
        (lambda: rd.AdditiveAttention(0, D, A, key=KEY), "query_size: expected at least 1"),
        (lambda: model(inputs, np.zeros((0, 5))), "decoder_inputs: expected shape"),
        (lambda: model(inputs, np.zeros((2, 4))), "decoder: its input has 21 entries; expected 20, an input of 4"),
        (lambda: model.generate(inputs, np.zeros(5), 0, feed_back=lambda y: y), "num_steps: expected at least 1"),
        (lambda: model.generate(inputs, np.zeros(5), 2, feed_back=lambda y: y[:2]), "feed_back: expected it to give"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
