"""Networks that read tokens: words or characters by number, as word vectors or one-hot."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from rnndyn._validation import check_at_least
from rnndyn.networks.models import AbstractRNN, BidirectionalRNN
from rnndyn.networks.vocabulary import Vocabulary


def check_tokens(name: str, tokens: Any, num_tokens: int, where: Any = None) -> None:
    """Raise unless the integers `tokens` are from 0 to `num_tokens` - 1 wherever `where` is true.

    Of traced tokens nothing can be told; what reads them gives NaN for a number out of range (`known_tokens`).
    """
    if isinstance(tokens, Tracer) or isinstance(where, Tracer):
        return
    tokens = np.asarray(tokens)
    wrong = (tokens < 0) | (tokens >= num_tokens)
    if where is not None:
        wrong &= np.asarray(where) != 0
    if wrong.any():
        first = tuple(int(i) for i in np.argwhere(wrong)[0])
        at = f"{name}[{', '.join(map(str, first))}]" if first else name
        raise ValueError(
            f"{at}: expected numbers from 0 to {num_tokens - 1}, got {tokens[first]} ({int(wrong.sum())} of "
            f"{tokens.size} are out of range). Steps that do not count are left out by a mask or ignore_index."
        )


def known_tokens(tokens: Array, num_tokens: int) -> tuple[Array, Array]:
    """Traced tokens moved into range, and whether each of them was in it."""
    is_known = (tokens >= 0) & (tokens < num_tokens)
    return jnp.where(is_known, tokens, 0), is_known


class TokenRNN(eqx.Module):
    """A network whose inputs are token numbers.

        y = network(embedding(k_0), ..., embedding(k_{T-1}))

    A number that is no token is an error; where it is traced and cannot be looked at, what it gives is NaN.

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
    network: AbstractRNN | BidirectionalRNN
    vocabulary: Vocabulary | None

    def __init__(
        self,
        embedding: Callable[[Any], Array],
        network: AbstractRNN | BidirectionalRNN,
        vocabulary: Vocabulary | None = None,
    ):
        """**Arguments:**

        - `embedding`: a function from a token's number to the input (I,) of the network: word vectors that are
            trained with the rest, `equinox.nn.Embedding(V, I, key=key)`, or one-hot, `rnndyn.OneHot(V)`.
        - `network`: an `RNN` or a `StackedRNN`; or a `BidirectionalRNN`, which is called on whole sequences only.
        - `vocabulary`: the characters of the numbers, where the tokens are characters.

        **Raises:** `ValueError` when the embedding has fewer rows than the vocabulary has characters, or does not fit
        the network.
        """
        num_tokens = getattr(embedding, "num_embeddings", None)
        if vocabulary is not None and num_tokens is not None and num_tokens != vocabulary.size:
            raise ValueError(f"embedding: expected {vocabulary.size} tokens, as in the vocabulary, got {num_tokens}.")
        embedded = eqx.filter_eval_shape(embedding, jnp.zeros((), jnp.int32))
        cells = [network.forward, network.backward] if isinstance(network, BidirectionalRNN) else [network.cell]
        for width in (getattr(cell, "input_size", None) for cell in cells):
            if isinstance(width, int) and embedded.shape != (width,):
                raise ValueError(f"embedding: expected vectors of shape ({width},) for the cell, got {embedded.shape}.")
        self.embedding = embedding
        self.network = network
        self.vocabulary = vocabulary

    @property
    def cell(self) -> Any:
        """The cell of the network."""
        if isinstance(self.network, BidirectionalRNN):
            # An AttributeError, so that this network has no cell to whoever asks.
            raise AttributeError("cell: a BidirectionalRNN has two; take model.network.forward or .backward.")
        return self.network.cell

    def start(self) -> PyTree[Array]:
        """The state from which a sequence starts.

        **Raises:** `ValueError` for a `BidirectionalRNN`.
        """
        return self._forwards("start").start()

    def check_tokens(self, tokens: Any, mask: Any = None) -> None:
        """Raise unless tokens of any shape are in range, where they are not traced and `mask` is true."""
        num_tokens = getattr(self.embedding, "num_embeddings", None)
        if num_tokens is not None:
            check_tokens("tokens", tokens, num_tokens, mask)

    def embed(self, tokens: Any, mask: Any = None) -> Float[Array, "T I"]:
        """What the cell reads for tokens `(T,)`; where `mask` is false they may be any numbers.

        **Raises:** `ValueError` for tokens that are not a sequence of integers, or out of range.
        """
        if jnp.ndim(tokens) != 1 or not jnp.issubdtype(jnp.result_type(tokens), jnp.integer):
            raise ValueError(
                f"tokens: expected one sequence of integers of shape (T,), got {jnp.result_type(tokens)} of shape "
                f"{jnp.shape(tokens)}. For a batch, use jax.vmap over its leading axis."
            )
        self.check_tokens(tokens, mask)
        tokens = jnp.asarray(tokens)
        if mask is not None and jnp.shape(mask) == tokens.shape:
            tokens = jnp.where(jnp.asarray(mask), tokens, 0)
        return jax.vmap(self._embed)(tokens)

    def states(
        self,
        tokens: Any,
        state: Any = None,
        mask: Any = None,
        *,
        remat_every: int | None = None,
        key: PRNGKeyArray | None = None,
    ) -> PyTree[Array]:
        """Every state of the cell (of a `BidirectionalRNN`, of both). Leaves have shape (T, ...)."""
        options: dict[str, Any] = {"remat_every": remat_every, "key": key, **self._begin(state)}
        return self.network.states(self.embed(tokens, mask), mask=mask, **options)

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
        options: dict[str, Any] = {"remat_every": remat_every, "key": key, **self._begin(state)}
        return self.network(self.embed(tokens, mask), mask=mask, **options)

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
        options: dict[str, Any] = {"remat_every": remat_every, "key": key, **self._begin(state)}
        return self.network.last(self.embed(tokens, mask), mask=mask, **options)

    def step(self, state: Any, token: Any, *, key: PRNGKeyArray | None = None) -> tuple[PyTree[Array], Array]:
        """One step: the state that has read `token`, and the output there; `key` as in the network.

        **Raises:** `ValueError` for a token out of range, or a `BidirectionalRNN`.
        """
        network = self._forwards("step")
        if jnp.ndim(token) != 0 or not jnp.issubdtype(jnp.result_type(token), jnp.integer):
            raise ValueError(
                f"token: expected one integer, got {jnp.result_type(token)} of shape {jnp.shape(token)}. Of logits, "
                "take jnp.argmax or jax.random.categorical."
            )
        self.check_tokens(token)
        return network.step(state, self._embed(jnp.asarray(token)), key=key)

    def read(self, state: Any, *, key: PRNGKeyArray | None = None) -> Array:
        """The output (O,) of a state; `key` as in the network.

        **Raises:** `ValueError` for a `BidirectionalRNN`.
        """
        return self._forwards("read").read(state, key=key)

    def _embed(self, token: Array) -> Array:
        num_tokens = getattr(self.embedding, "num_embeddings", None)
        if num_tokens is None:
            return self.embedding(token)
        token, is_known = known_tokens(token, num_tokens)
        return jnp.where(is_known, self.embedding(token), jnp.nan)

    def _begin(self, state: Any) -> dict[str, Any]:
        if not isinstance(self.network, BidirectionalRNN):
            return {"state": state}
        if state is not None:
            raise ValueError("state: a BidirectionalRNN starts from its own states; call it without one.")
        return {}

    def _forwards(self, name: str) -> AbstractRNN:
        if isinstance(self.network, BidirectionalRNN):
            raise ValueError(
                f"model: {name} goes forwards in time, and a BidirectionalRNN reads the end first; call it on a whole "
                "sequence, or take an RNN."
            )
        return self.network


class OneHot(eqx.Module):
    """Tokens as unit vectors: a function from a number k to the k-th of V unit vectors.

    Takes the place of an embedding that is not learned: the input weight of the cell then has one column for each
    token. Numbers outside 0, ..., V - 1 give the zero vector.
    """

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
