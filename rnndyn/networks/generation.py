"""Writing text with a language model."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from rnndyn._programs import compiled
from rnndyn._validation import check_at_least
from rnndyn.networks.call import promote_state
from rnndyn.networks.tokens import TokenRNN


def generate(
    model: TokenRNN,
    prompt: str,
    length: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    key: PRNGKeyArray | None = None,
) -> str:
    r"""Go on with a text: the model reads the prompt, then reads its own choices.

    With logits $\ell_t$ after t characters, the next one is drawn from

    $$p_t(c) \propto \exp(\ell_{t,c} / \tau), \qquad c \in \text{the } k \text{ largest of } \ell_t .$$

    **Arguments:**

    - `model`: a `TokenRNN` with a vocabulary, one output per character.
    - `prompt`: the text to go on from, at least one character, all in the vocabulary.
    - `length`: characters to write.
    - `temperature`: $\tau$; below 1 likely characters get likelier, 0 takes the likeliest (then a deterministic map of
      the network's state, which may end in a fixed point or a cycle).
    - `top_k`: choose among this many of the likeliest characters; all of them by default.
    - `key`: fixes the choices; needed unless `temperature` is 0.

    **Returns:** the text written, without the prompt.

    **Raises:** `ValueError` for an empty prompt, characters that are not in the vocabulary, a length below 1, a
    negative temperature, `top_k` outside 1 ... V, no key, or a model without a vocabulary or that reads backwards.
    """
    vocabulary = model.vocabulary
    if vocabulary is None:
        raise ValueError("model: has no vocabulary; make it with rnndyn.TokenRNN(embedding, network, vocabulary).")
    if len(prompt) == 0:
        raise ValueError("prompt: expected at least one character to go on from, got an empty text.")
    check_at_least("length", length, 1)
    check_at_least("temperature", temperature, 0)
    if top_k is not None and not 1 <= top_k <= vocabulary.size:
        raise ValueError(f"top_k: expected 1 to {vocabulary.size}, the size of the vocabulary, got {top_k}.")
    if key is None:
        if temperature > 0:
            raise ValueError("key: expected a jax.random.key to draw with; without one, take temperature=0.")
        key = jax.random.key(0)  # never used
    logits = eqx.filter_eval_shape(lambda model: model.read(model.start()), model)
    if logits.shape != (vocabulary.size,):
        raise ValueError(f"model: expected one output per character, shape ({vocabulary.size},), got {logits.shape}.")
    tokens = jnp.asarray(vocabulary.encode(prompt))
    return vocabulary.decode(
        _write(model, tokens, jnp.asarray(float(temperature)), key, length, top_k, temperature == 0)
    )


@compiled
def _write(
    model: TokenRNN,
    prompt: Int[Array, " P"],
    temperature: Float[Array, ""],
    key: PRNGKeyArray,
    length: int,
    top_k: int | None,
    likeliest: bool,
) -> Int[Array, " L"]:
    def step(carry: tuple[Any, Array], key: PRNGKeyArray) -> tuple[tuple[Any, Array], Array]:
        state, logits = carry
        token = jnp.argmax(logits) if likeliest else _draw(logits / temperature, top_k, key)
        return model.step(state, token), token

    # The steps after the prompt may be wider than it: a state in half precision meets inputs in float32.
    state = jax.tree.map(lambda leaf: leaf[-1], model.states(prompt))
    state = promote_state(lambda state: model.step(state, prompt[0])[0], state)
    carry = (state, model.read(state))
    return jax.lax.scan(step, carry, jax.random.split(key, length))[1]


def _draw(logits: Float[Array, " V"], top_k: int | None, key: PRNGKeyArray) -> Int[Array, ""]:
    if top_k is None:
        return jax.random.categorical(key, logits)
    # By rank and not by threshold: of equal logits no more than k may stay.
    values, tokens = jax.lax.top_k(logits, top_k)
    return tokens[jax.random.categorical(key, values)]
