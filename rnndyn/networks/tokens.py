"""Networks that read tokens: words or characters by number, as word vectors or one-hot."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from rnndyn._validation import check_at_least
from rnndyn.networks.models import AbstractRNN
from rnndyn.networks.vocabulary import Vocabulary


class TokenRNN(eqx.Module):
    """A network whose inputs are token numbers.

        y = network(embedding(k_0), ..., embedding(k_{T-1}))

    It is used as the network in it (see `AbstractRNN`), with numbers `(T,)` in place of inputs `(T, I)`. With a
    vocabulary and one output per character it is a language model, from which `rnndyn.generate` writes text: the
    outputs at step t are the logits of token t + 1.

    ```python
    cell = rd.LSTMCell(32, 128, key=cell_key)
    network = rd.RNN(cell, eqx.nn.Linear(128, vocabulary.size, key=readout_key))
    model = rd.TokenRNN(eqx.nn.Embedding(vocabulary.size, 32, key=embedding_key), network, vocabulary)
    ```
    """

    embedding: Callable[[Any], Array]
    network: AbstractRNN
    vocabulary: Vocabulary | None

    def __init__(self, embedding: Callable[[Any], Array], network: AbstractRNN, vocabulary: Vocabulary | None = None):
        """**Arguments:**

        - `embedding`: a function from a token's number to the input (I,) of the network: word vectors that are
            trained with the rest, `equinox.nn.Embedding(V, I, key=key)`, or one-hot, `rnndyn.OneHot(V)`.
        - `network`: an `RNN` or a `StackedRNN`.
        - `vocabulary`: the characters of the numbers, where the tokens are characters.

        **Raises:** `ValueError` when the embedding has fewer rows than the vocabulary has characters, or does not fit
        the network.
        """
        num_tokens = getattr(embedding, "num_embeddings", None)
        if vocabulary is not None and num_tokens is not None and num_tokens != vocabulary.size:
            raise ValueError(f"embedding: expected {vocabulary.size} tokens, as in the vocabulary, got {num_tokens}.")
        width = getattr(network.cell, "input_size", None)
        embedded = eqx.filter_eval_shape(embedding, jnp.zeros((), jnp.int32))
        if width is not None and embedded.shape != (width,):
            raise ValueError(f"embedding: expected vectors of shape ({width},) for the cell, got {embedded.shape}.")
        self.embedding = embedding
        self.network = network
        self.vocabulary = vocabulary

    @property
    def cell(self) -> Any:
        """The cell of the network."""
        return self.network.cell

    def start(self) -> PyTree[Array]:
        """The state from which a sequence starts."""
        return self.network.start()

    def embed(self, tokens: Any) -> Float[Array, "T I"]:
        """What the cell reads for tokens `(T,)`.

        **Raises:** `ValueError` for tokens that are not a sequence of integers.
        """
        tokens = jnp.asarray(tokens)
        if tokens.ndim != 1 or not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise ValueError(
                f"tokens: expected one sequence of integers of shape (T,), got {tokens.dtype} of shape {tokens.shape}. "
                "For a batch, use jax.vmap over its leading axis."
            )
        return jax.vmap(self.embedding)(tokens)

    def states(
        self,
        tokens: Any,
        state: Any = None,
        mask: Any = None,
        *,
        remat_every: int | None = None,
        key: PRNGKeyArray | None = None,
    ) -> PyTree[Array]:
        """Every state of the cell. Leaves have shape (T, ...)."""
        return self.network.states(self.embed(tokens), state, mask, remat_every=remat_every, key=key)

    def __call__(
        self,
        tokens: Any,
        state: Any = None,
        mask: Any = None,
        *,
        remat_every: int | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Array:
        """Many to many: the output at every step, (T, O). Arguments as those of the network."""
        return self.network(self.embed(tokens), state, mask, remat_every=remat_every, key=key)

    def last(
        self,
        tokens: Any,
        state: Any = None,
        mask: Any = None,
        *,
        remat_every: int | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Array:
        """Many to one: the output (O,) after the last valid token."""
        return self.network.last(self.embed(tokens), state, mask, remat_every=remat_every, key=key)

    def step(self, state: Any, token: Any) -> tuple[PyTree[Array], Array]:
        """One step: the state that has read `token`, and the output there."""
        return self.network.step(state, self.embedding(jnp.asarray(token)))

    def read(self, state: Any) -> Array:
        """The output (O,) of a state."""
        return self.network.read(state)


class OneHot(eqx.Module):
    """Tokens as unit vectors: a function from a number k to the k-th of V unit vectors."""

    num_embeddings: int = eqx.field(static=True)
    dtype: Any = eqx.field(static=True)

    def __init__(self, num_tokens: int, *, dtype: Any = None):
        """**Arguments:**

        - `num_tokens`: V.
        - `dtype`: of the vectors; JAX's default float when not given.
        """
        check_at_least("num_tokens", num_tokens, 1)
        self.num_embeddings = num_tokens
        self.dtype = dtype

    def __call__(self, token: Any) -> Float[Array, " V"]:
        dtype = jnp.result_type(float) if self.dtype is None else self.dtype
        return jax.nn.one_hot(token, self.num_embeddings, dtype=dtype)
