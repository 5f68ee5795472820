"""Token networks, text written by them, and streaming: against the network on vectors and a plain loop."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rnndyn as rd

CHARACTERS = "abcdefgh"
V, H, T = len(CHARACTERS), 6, 9
TOKENS = np.array([0, 3, 1, 7, 7, 2, 5, 0, 4])


def make(embedding_size=None, cell=rd.GRUCell, seed=0, characters=CHARACTERS):
    cell_key, readout_key, embedding_key = jax.random.split(jax.random.key(seed), 3)
    width = V if embedding_size is None else embedding_size
    # Large enough weights for logits that differ.
    readout = eqx.nn.Linear(H, V, key=readout_key)
    readout = eqx.tree_at(lambda r: r.weight, readout, 6 * readout.weight)
    network = rd.RNN(cell(width, H, key=cell_key), readout)
    embedding = rd.OneHot(V) if embedding_size is None else eqx.nn.Embedding(V, width, key=embedding_key)
    return rd.TokenRNN(embedding, network, rd.Vocabulary(characters))


@pytest.fixture(scope="module")
def model():
    return make()


def test_one_hot_and_word_vectors_are_the_network_on_vectors(model):
    np.testing.assert_array_equal(model(TOKENS), model.network(np.eye(V, dtype=np.float32)[TOKENS]))
    vectors = make(3)
    np.testing.assert_array_equal(vectors(TOKENS), vectors.network(vectors.embedding.weight[TOKENS]))
    mask = np.arange(T) < 4
    # Rows are summed in another order for another length.
    np.testing.assert_allclose(vectors.last(TOKENS, mask=mask), vectors(TOKENS[:4])[-1], atol=1e-6)


def test_word_vectors_are_trained_where_they_are_read():
    gradient = eqx.filter_grad(lambda m: jnp.sum(m(TOKENS) ** 2))(make(3)).embedding.weight
    moved = np.abs(gradient).max(axis=1) > 0
    assert moved.tolist() == [token in TOKENS for token in range(V)]


@pytest.mark.parametrize("cell", [rd.GRUCell, rd.LSTMCell])
def test_a_stream_gives_the_outputs_of_the_whole_sequence_with_constant_memory(cell):
    model = make(cell=cell)
    stream = rd.Stream(model)
    num_bytes = stream.num_bytes
    outputs = []
    for token in TOKENS:
        outputs.append(stream(token))
        assert stream.num_bytes == num_bytes == 4 * H * (2 if cell is rd.LSTMCell else 1)
    # The goal of the project; float32 sums of a few terms.
    np.testing.assert_allclose(np.stack(outputs), model(TOKENS), rtol=0, atol=1e-6)
    kept = stream.state
    first = stream(3)
    stream.state = kept
    np.testing.assert_array_equal(stream(3), first)


def test_a_stream_of_vectors_starts_where_it_is_told(model):
    inputs = np.random.default_rng(0).normal(size=(5, V)).astype(np.float32)
    states = model.network.states(inputs)
    stream = rd.Stream(model.network, states[1])
    np.testing.assert_allclose([stream(u) for u in inputs[2:]], model.network(inputs)[2:], rtol=0, atol=1e-6)


def by_hand(model, prompt, length):
    """The likeliest characters, one after the other."""
    stream = rd.Stream(model)
    tokens = [int(np.argmax([stream(token) for token in model.vocabulary.encode(prompt)][-1]))]
    while len(tokens) < length:
        tokens.append(int(np.argmax(stream(tokens[-1]))))
    return model.vocabulary.decode(tokens)


def test_generate_takes_the_likeliest_at_temperature_zero(model):
    expected = by_hand(model, "abc", 6)
    assert rd.generate(model, "abc", 6, temperature=0) == expected
    assert rd.generate(model, "abc", 6, top_k=1, key=jax.random.key(3)) == expected
    # At temperature 1e-4 a difference of logits of 0.01 decides with probability 1 - e^-100.
    assert rd.generate(model, "abc", 6, temperature=1e-4, key=jax.random.key(4)) == expected


def memoryless(bias):
    """A model whose logits are `bias` whatever it reads."""
    flat = make()
    where = lambda m: (m.network.readout.weight, m.network.readout.bias)
    return eqx.tree_at(where, flat, (jnp.zeros((V, H)), jnp.asarray(bias, jnp.float32)))


def test_generate_draws_with_the_probabilities_of_the_model():
    bias = np.array([2.0, -1.0, 0.0, 1.0, 0.5, -0.5, 3.0, -2.0])
    text = rd.generate(memoryless(bias), "h", 4000, temperature=2.0, key=jax.random.key(0))
    shares = np.array([text.count(character) for character in CHARACTERS]) / 4000
    expected = np.exp(bias / 2) / np.exp(bias / 2).sum()
    # Four standard errors of a share of independent draws.
    assert (np.abs(shares - expected) < 4 * np.sqrt(expected * (1 - expected) / 4000)).all()
    few = rd.generate(memoryless(bias), "h", 200, top_k=2, key=jax.random.key(0))
    assert set(few) == {"a", "g"}


def test_top_k_of_equal_logits_keeps_k():
    assert len(set(rd.generate(memoryless(np.zeros(V)), "a", 200, top_k=3, key=jax.random.key(0)))) == 3


def test_a_saved_model_brings_its_vocabulary(model, tmp_path):
    path = rd.save_model(tmp_path / "model", model)
    other = make(seed=5, characters="stuvwxyz")
    loaded = rd.load_model(path, other)
    assert loaded.vocabulary.characters == CHARACTERS
    assert rd.generate(loaded, "abc", 8, temperature=0) == rd.generate(model, "abc", 8, temperature=0)
    with pytest.raises(ValueError, match="another structure"):
        rd.load_model(path, make(3))


def test_a_model_of_text_learns_a_text(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("abcdefgh" * 200)
    text = rd.tasks.read_text(file)
    loss = rd.training.over_trials(rd.training.softmax_cross_entropy)
    batches = text.train.windows(8, 12, key=jax.random.key(1))
    trained = rd.fit(make(), loss, batches, optax.adam(2e-2), num_steps=150, key=jax.random.key(0))
    assert trained.history.losses[-1] < 0.2
    assert rd.generate(trained.model, "cdef", 10, temperature=0) == "ghabcdefgh"


def test_misfits_are_named(model):
    generate = lambda *args, **options: rd.generate(model, *args, **options)
    key = jax.random.key(0)
    for call, message in [
        (lambda: generate("", 3, key=key), "prompt: expected at least one character"),
        (lambda: generate("abz", 3, key=key), "text: 1 characters are not in the vocabulary of 8: 'z'"),
        (lambda: generate("ab", 0, key=key), "length: expected at least 1"),
        (lambda: generate("ab", 3, temperature=-1.0, key=key), "temperature: expected at least 0"),
        (lambda: generate("ab", 3), "key: expected a jax.random.key"),
        (lambda: generate("ab", 3, top_k=0, key=key), "top_k: expected 1 to 8"),
        (lambda: generate("ab", 3, top_k=9, key=key), "top_k: expected 1 to 8"),
        (lambda: rd.generate(rd.TokenRNN(rd.OneHot(V), model.network), "ab", 3, key=key), "model: has no vocabulary"),
        (
            lambda: rd.generate(
                rd.TokenRNN(rd.OneHot(V), rd.RNN(model.cell, lambda h: h), model.vocabulary), "a", 3, key=key
            ),
            r"model: expected one output per character, shape \(8,\), got \(6,\)",
        ),
        (lambda: rd.TokenRNN(rd.OneHot(V + 1), model.network, model.vocabulary), "embedding: expected 8 tokens"),
        (lambda: rd.TokenRNN(rd.OneHot(V + 1), model.network), r"embedding: expected vectors of shape \(8,\)"),
        (lambda: model(np.zeros((2, 3), int)), r"tokens: expected one sequence of integers .* of shape \(2, 3\)"),
        (lambda: model(np.zeros(3)), "tokens: expected one sequence of integers"),
        (lambda: rd.Stream(lambda u: u), r"model: expected one with start\(\) and step"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
