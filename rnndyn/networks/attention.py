"""Attention over the states of an encoder, and the sequence-to-sequence network built with it."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from rnndyn._validation import check_at_least
from rnndyn.networks.adapters import as_cell, for_sequence, is_random, takes_key
from rnndyn.networks.models import run_on_outputs
from rnndyn.networks.unroll import unroll


def attend(scores: Float[Array, " T"], values: Float[Array, "T D"], mask: Any = None) -> "Attended":
    r"""The mean of values weighted by the softmax of their scores, over the entries of a sequence that are there.

    $$w_t = \frac{m_t\, e^{s_t}}{\sum_{t'} m_{t'}\, e^{s_{t'}}}, \qquad \text{context} = \sum_t w_t v_t .$$

    **Arguments:**

    - `scores`: $s$, (T,).
    - `values`: $v$, (T, D).
    - `mask`: booleans (T,), true where the sequence has an entry; all of it by default. What `scores` and `values` hold
        elsewhere, NaN included, has no influence and gets no gradient.

    **Returns:** an `Attended`. Where the mask has no true entry both are zero.
    """
    if mask is not None:
        mask = jnp.asarray(mask)
        scores = jnp.where(mask, scores, -jnp.inf)
        values = jnp.where(mask[:, None], values, 0)
        # Of an empty sequence the softmax would be 0/0.
        scores = jnp.where(jnp.any(mask), scores, 0)
    weights = jax.nn.softmax(scores)
    if mask is not None:
        weights = jnp.where(mask, weights, 0)
    return Attended(weights @ values, weights)


class Attended(eqx.Module):
    """What attention found."""

    context: Float[Array, " D"]
    """The weighted mean of the values."""
    weights: Float[Array, " T"]
    """The weights, which are not negative and sum to 1."""


class DotProductAttention(eqx.Module):
    r"""Attention by scaled dot products of learned queries and keys.

    $$s_t = \frac{(W_q q)^\top (W_k k_t)}{\sqrt A}$$

    Reference: Luong, Pham and Manning, 2015, "Effective approaches to attention-based neural machine translation", for
    the products; Vaswani et al., 2017, "Attention is all you need", for the scale.
    """

    query: eqx.nn.Linear
    key: eqx.nn.Linear

    def __init__(self, query_size: int, key_size: int, attention_size: int, *, key: PRNGKeyArray):
        """**Arguments:**

        - `query_size`: entries of the query, the decoder's output.
        - `key_size`: entries D of what is attended to, the encoder's outputs.
        - `attention_size`: A, entries of the vectors that are multiplied.
        - `key`: a `jax.random.key` from which the weights are drawn.
        """
        _check_sizes(query_size, key_size, attention_size)
        query_key, key_key = jax.random.split(key)
        self.query = eqx.nn.Linear(query_size, attention_size, use_bias=False, key=query_key)
        self.key = eqx.nn.Linear(key_size, attention_size, use_bias=False, key=key_key)

    def __call__(self, query: Any, keys: Any, mask: Any = None) -> Attended:
        """Attend to `keys` (T, D) with `query` (Q,), where `mask` (T,) is true."""
        keys, mask = _check_keys(keys, mask)
        projected = jax.vmap(self.key)(keys)
        scores = projected @ self.query(jnp.asarray(query)) / jnp.sqrt(jnp.asarray(projected.shape[1], projected.dtype))
        return attend(scores, keys, mask)


class AdditiveAttention(eqx.Module):
    r"""Attention by a network of one hidden layer.

    $$s_t = v^\top \tanh(W_q q + W_k k_t)$$

    Reference: Bahdanau, Cho and Bengio, 2015, "Neural machine translation by jointly learning to align and translate".
    """

    query: eqx.nn.Linear
    key: eqx.nn.Linear
    score: eqx.nn.Linear

    def __init__(self, query_size: int, key_size: int, attention_size: int, *, key: PRNGKeyArray):
        """**Arguments:** as of `DotProductAttention`; `attention_size` is the number of hidden units."""
        _check_sizes(query_size, key_size, attention_size)
        query_key, key_key, score_key = jax.random.split(key, 3)
        self.query = eqx.nn.Linear(query_size, attention_size, key=query_key)
        self.key = eqx.nn.Linear(key_size, attention_size, use_bias=False, key=key_key)
        self.score = eqx.nn.Linear(attention_size, "scalar", use_bias=False, key=score_key)

    def __call__(self, query: Any, keys: Any, mask: Any = None) -> Attended:
        """Attend to `keys` (T, D) with `query` (Q,), where `mask` (T,) is true."""
        keys, mask = _check_keys(keys, mask)
        from_query = self.query(jnp.asarray(query))
        scores = jax.vmap(lambda k: self.score(jnp.tanh(from_query + self.key(k))))(keys)
        return attend(scores, keys, mask)


class Seq2Seq(eqx.Module):
    r"""Sequence to sequence: an encoder reads one, a decoder that attends to its states writes the other.

    $$k_t = \text{encoder outputs}, \qquad c_i = \text{attention}(\text{output}(s_{i-1}),\, k), \qquad
    s_i = \text{decoder}(s_{i-1}, [u_i, c_i]), \qquad y_i = \text{readout}([\text{output}(s_i), c_i])$$

    The two sequences may differ in length. With `model(inputs, decoder_inputs)` the decoder reads what it is given (in
    training the true last outputs, teacher forcing); with `model.generate` it reads its own.

    Reference: Sutskever, Vinyals and Le, 2014, "Sequence to sequence learning with neural networks"; Bahdanau, Cho and
    Bengio, 2015.
    """

    encoder: Any
    decoder: Any
    attention: Callable[..., Attended]
    readout: Callable[[Array], Array]

    def __init__(self, encoder: Any, decoder: Any, attention: Callable[..., Attended], readout: Callable):
        """**Arguments:**

        - `encoder`: a model of a sequence with one output (D,) at each step, the keys: `RNN`, `StackedRNN` or
            `BidirectionalRNN`, called as `encoder(inputs, mask=mask)`. To attend to the states themselves give it the
            readout `lambda h: h`.
        - `decoder`: a cell, which reads an input and a context, I + D entries.
        - `attention`: `DotProductAttention`, `AdditiveAttention`, or any `attention(query, keys, mask) -> Attended`.
        - `readout`: a function from the output of the decoder's state and the context, joined, to (O,).
        """
        self.encoder = encoder
        self.decoder = decoder
        self.attention = attention
        self.readout = readout

    def encode(self, inputs: Any, mask: Any = None) -> Float[Array, "T D"]:
        """The keys of a sequence (T, I); where `mask` (T,) is false they mean nothing."""
        return self.encoder(inputs, mask=mask)

    def step(
        self, state: PyTree[Array], input: Any, keys: Array, mask: Any = None
    ) -> tuple[PyTree[Array], Array, Float[Array, " T"]]:
        """One step of the decoder: the next state, the output (O,), and the weights (T,) of the attention."""
        cell = as_cell(self.decoder)
        attended = self.attention(cell.output(state), keys, mask)
        state = cell(state, jnp.concatenate([input, attended.context]))
        return state, self.readout(jnp.concatenate([cell.output(state), attended.context])), attended.weights

    def __call__(self, inputs: Any, decoder_inputs: Any, mask: Any = None) -> Array:
        """The outputs for given inputs of the decoder.

        **Arguments:**

        - `inputs`: the sequence to read, (T, I).
        - `decoder_inputs`: what the decoder reads at its steps, (S, J).
        - `mask`: booleans (T,), true where `inputs` has an entry.

        **Returns:** outputs (S, O).

        **Raises:** `ValueError` for sequences without steps or of the wrong width.
        """
        return self.run(inputs, decoder_inputs, mask)[0]

    def run(self, inputs: Any, decoder_inputs: Any, mask: Any = None) -> tuple[Array, Float[Array, "S T"]]:
        """As a call, with the weights of the attention: row i tells where output i looked."""
        decoder_inputs = jnp.asarray(decoder_inputs)
        if decoder_inputs.ndim != 2 or len(decoder_inputs) == 0:
            raise ValueError(
                f"decoder_inputs: expected shape (S, J) with at least one step, got {decoder_inputs.shape}."
            )
        keys = self.encode(inputs, mask)
        state = self._start(decoder_inputs[0], keys)

        def step(state: Any, input: Array) -> tuple[Any, tuple[Array, Array]]:
            state, output, weights = self.step(state, input, keys, mask)
            return state, (output, weights)

        return jax.lax.scan(step, state, decoder_inputs)[1]

    def generate(
        self, inputs: Any, start: Any, num_steps: int, mask: Any = None, *, feed_back: Callable[[Array], Array]
    ) -> Array:
        """The outputs when the decoder reads its own.

        **Arguments:**

        - `inputs`, `mask`: the sequence to read.
        - `start`: the first input of the decoder, (J,).
        - `num_steps`: the number S of outputs.
        - `feed_back`: a function from an output (O,) to the next input (J,).

        **Returns:** outputs (S, O).

        **Raises:** `ValueError` for fewer than one step, or a `feed_back` that does not give an input.
        """
        check_at_least("num_steps", num_steps, 1)
        start = jnp.asarray(start)
        keys = self.encode(inputs, mask)
        state = self._start(start, keys)
        fed_back = eqx.filter_eval_shape(lambda: feed_back(self.step(state, start, keys, mask)[1]))
        if fed_back.shape != start.shape:
            raise ValueError(f"feed_back: expected it to give an input of shape {start.shape}, got {fed_back.shape}.")

        def step(carry: tuple[Any, Array], _: None) -> tuple[tuple[Any, Array], Array]:
            state, input = carry
            state, output, _weights = self.step(state, input, keys, mask)
            return (state, jnp.asarray(feed_back(output), fed_back.dtype)), output

        return jax.lax.scan(step, (state, jnp.asarray(start, fed_back.dtype)), length=num_steps)[1]

    def _start(self, input: Any, keys: Array) -> PyTree[Array]:
        cell = as_cell(self.decoder)
        read = jnp.concatenate([input, keys[0]])
        if cell.input_size is not None and read.shape != (cell.input_size,):
            raise ValueError(
                f"decoder: its input has {cell.input_size} entries; expected {read.size}, an input of {input.size} and "
                f"a context of {keys.shape[1]}."
            )
        return check_transition(cell, cell.initial_state(), read)


def _check_sizes(query_size: int, key_size: int, attention_size: int) -> None:
    check_at_least("query_size", query_size, 1)
    check_at_least("key_size", key_size, 1)
    check_at_least("attention_size", attention_size, 1)


def _check_keys(keys: Any, mask: Any) -> tuple[Array, Any]:
    """The keys with zeros where there is no entry: a NaN there would come back through the gradient."""
    keys = jnp.asarray(keys)
    if keys.ndim != 2 or len(keys) == 0:
        raise ValueError(f"keys: expected shape (T, D) with at least one step, got {keys.shape}.")
    if mask is None:
        return keys, None
    mask = jnp.asarray(mask)
    if mask.shape != keys.shape[:1] or mask.dtype != jnp.bool_:
        raise ValueError(f"mask: expected booleans of shape ({len(keys)},), got {mask.dtype} of shape {mask.shape}.")
    return jnp.where(mask[:, None], keys, 0), mask
