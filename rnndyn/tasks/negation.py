"""Synthetic sentiment with negation: some words turn the next two around."""

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from rnndyn._validation import check_at_least
from rnndyn.tasks._checks import check_probability
from rnndyn.tasks.text_integration import VALENCES
from rnndyn.tasks.trial import Trial

REACH = 2
"""How many words after a modifier are negated."""


def negation(
    *, key: PRNGKeyArray, num_steps: int = 40, modifier_probability: float = 0.15, min_words: int | None = None
) -> Trial:
    r"""Tell whether a text is positive, where "not" negates the two words that follow it.

    The words have valences $v \in \{2, 1, 0, -1, -2\}$; the modifier has none. With $n_t = 1$ when one of the two words
    before t is a modifier, the score and the label are

    $$s = \sum_t (-1)^{n_t} v_t, \qquad y = [s > 0] .$$

    Two modifiers in reach of a word negate it once. A bag of words sees the counts of $v_t$ and of modifiers, but not
    which words they stood before.

    **Arguments:**

    - `key`: fixes the words.
    - `num_steps`: words, T.
    - `min_words`: for texts of different lengths, uniform from this to T; all have T words by default. After the end
      of a text its inputs are zero, which no word is.
    - `modifier_probability`: of the modifier, at every step; the other five words share the rest equally.

    **Returns:** a `Trial`: inputs `(T, 6)`, one-hot, the words by falling valence and then the modifier; targets
    `(T, 1)`, the label at every step; mask `(T,)`, 1 at the last word only, and 0 there too where the score is 0.

    **Raises:** `ValueError` for fewer than 1 step, a probability outside [0, 1], or `min_words` outside 1 ... T.

    ??? cite "Reference"
        N. Maheswaranathan & D. Sussillo (2020), "How recurrent networks implement contextual processing in sentiment
        analysis", ICML, arXiv 2004.08013.
    """
    check_at_least("num_steps", num_steps, 1)
    check_probability("modifier_probability", modifier_probability)
    if min_words is not None and not 1 <= min_words <= num_steps:
        raise ValueError(f"min_words: expected 1 to {num_steps}, the steps of the trial, got {min_words}.")
    num_words = num_steps
    if min_words is not None:
        # The other draws are those of the same key without lengths.
        num_words = jax.random.randint(jax.random.fold_in(key, 0), (), min_words, num_steps + 1)
    is_word = jnp.arange(num_steps) < num_words
    key_modifier, key_word = jax.random.split(key)
    is_modifier = jax.random.bernoulli(key_modifier, modifier_probability, (num_steps,))
    num_valences = len(VALENCES)
    words = jnp.where(is_modifier, num_valences, jax.random.randint(key_word, (num_steps,), 0, num_valences))
    valences = jnp.asarray((*VALENCES, 0))[words]
    score = jnp.sum(jnp.where(is_word, jnp.where(is_negated(is_modifier), -valences, valences), 0))
    last = jnp.arange(num_steps) == num_words - 1
    dtype = jnp.result_type(float)
    return Trial(
        jax.nn.one_hot(words, num_valences + 1) * is_word[:, None],
        jnp.full((num_steps, 1), score > 0, dtype),
        (last & (score != 0)).astype(dtype),
    )


def is_negated(is_modifier: jax.Array) -> jax.Array:
    """Which words `(T,)` stand one or two places after a modifier."""
    padded = jnp.concatenate([jnp.zeros(REACH, bool), is_modifier])
    num_steps = is_modifier.shape[0]
    return jnp.any(jnp.stack([padded[shift : shift + num_steps] for shift in range(REACH)]), axis=0)
