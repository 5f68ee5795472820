"""Attention over the states of an encoder, and the sequence-to-sequence network built with it."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from rnndyn._validation import check_at_least
from rnndyn.networks.adapters import as_cell, for_sequence, is_random, takes_key
from rnndyn.networks.readouts import at_entries, read_all, run_on_outputs
from rnndyn.networks.unroll import check_mask, scan_cell


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

    def encode(self, inputs: Any, mask: Any = None, *, key: PRNGKeyArray | None = None) -> Float[Array, "T D"]:
        """The keys of a sequence (T, I); where `mask` (T,) is false they mean nothing."""
        noise = {"key": key} if key is not None and takes_key(self.encoder) else {}
        return self.encoder(inputs, mask=mask, **noise)

    def step(
        self, state: PyTree[Array], input: Any, keys: Array, mask: Any = None
    ) -> tuple[PyTree[Array], Array, Float[Array, " T"]]:
        """One step of the decoder: the next state, the output (O,), and the weights (T,) of the attention."""
        after = self._decode(keys, mask)((state, None, None), input)
        return after[0], self._read(after), after[2]

    def __call__(
        self,
        inputs: Any,
        decoder_inputs: Any,
        mask: Any = None,
        decoder_mask: Any = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Array:
        """The outputs for given inputs of the decoder.

        **Arguments:**

        - `inputs`: the sequence to read, (T, I).
        - `decoder_inputs`: what the decoder reads at its steps, (S, J).
        - `mask`: booleans (T,), true where `inputs` has an entry.
        - `decoder_mask`: booleans (S,), true where `decoder_inputs` has an entry. What either padding holds has no
            influence on outputs or gradients; there the last output is repeated.
        - `key`: a `jax.random.key` for training, as in `RNN`.

        **Returns:** outputs (S, O).

        **Raises:** `ValueError` for sequences without steps or of the wrong width.
        """
        return self.run(inputs, decoder_inputs, mask, decoder_mask, key=key)[0]

    def run(
        self,
        inputs: Any,
        decoder_inputs: Any,
        mask: Any = None,
        decoder_mask: Any = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Array, Float[Array, "S T"]]:
        """As a call, with the weights of the attention: row i tells where output i looked."""
        decoder_inputs = jnp.asarray(decoder_inputs)
        if decoder_inputs.ndim != 2 or len(decoder_inputs) == 0:
            raise ValueError(
                f"decoder_inputs: expected shape (S, J) with at least one step, got {decoder_inputs.shape}."
            )
        if decoder_mask is not None:
            decoder_mask = check_mask(decoder_mask, len(decoder_inputs), "decoder_mask")
        encoder_key, decoder_key = (None, None) if key is None else jax.random.split(key)
        keys = self.encode(inputs, mask, key=encoder_key)
        decode = self._decode(keys, mask)
        decode.check_width(decoder_inputs[0])
        noise = decoder_key if is_random(decode.cell) else None
        states = scan_cell(
            decode, decoder_inputs, None, decoder_mask, noise, False, len(decoder_inputs), False, None, False
        )
        states = at_entries(states, decoder_mask)
        return read_all(self._read, self.readout, states, key=decoder_key), states[2]

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
        decode = self._decode(self.encode(inputs, mask), mask)
        decode.check_width(jnp.asarray(start))
        return run_on_outputs(decode, self._read, feed_back, decode.initial_state(), start, num_steps)

    def _decode(self, keys: Array, mask: Any) -> "_AttendingCell":
        return _AttendingCell(as_cell(self.decoder), self.attention, keys, mask)

    def _read(self, state: Any, *, key: PRNGKeyArray | None = None) -> Array:
        decoded, context, _ = state
        noise = {} if key is None else {"key": key}
        return self.readout(jnp.concatenate([as_cell(self.decoder).output(decoded), context]), **noise)


class _AttendingCell(eqx.Module):
    """The decoder with what it attends to, as one cell; its state also tells what it saw: context and weights."""

    cell: Any
    attention: Callable[..., Attended]
    keys: Array
    mask: Array | None

    def __call__(self, state: Any, input: Any, *, key: PRNGKeyArray | None = None) -> Any:
        attended = self.attention(self.cell.output(state[0]), self.keys, self.mask)
        noise = {"key": key} if key is not None and takes_key(self.cell) else {}
        after = self.cell(state[0], jnp.concatenate([input, attended.context]), **noise)
        return after, attended.context, attended.weights

    def sample(self, key: PRNGKeyArray) -> "_AttendingCell":
        return eqx.tree_at(lambda decode: decode.cell, self, for_sequence(self.cell, key))

    def initial_state(self) -> Any:
        keys = self.keys
        return self.cell.initial_state(), jnp.zeros(keys.shape[1], keys.dtype), jnp.zeros(keys.shape[0], keys.dtype)

    def check_width(self, input: Array) -> None:
        size, context = self.cell.input_size, self.keys.shape[1]
        if size is not None and (input.ndim != 1 or input.size + context != size):
            raise ValueError(
                f"decoder: its input has {size} entries; expected {input.size + context}, an input of {input.size} and "
                f"a context of {context}."
            )


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
    mask = check_mask(mask, len(keys))
    return jnp.where(mask[:, None], keys, 0), mask
