"""Synthetic text classification: words carry evidence for classes, and the largest sum wins."""

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from rnndyn._validation import check_at_least
from rnndyn.tasks.trial import Trial

VALENCES = (2, 1, 0, -1, -2)
"""What a word may say of its class."""


def text_integration(*, key: PRNGKeyArray, num_classes: int = 3, num_steps: int = 40) -> Trial:
    r"""Name the class for which the words of a text speak most.

    The vocabulary has five words for each class c, with valences $v \in \{2, 1, 0, -1, -2\}$. Every word of the text is
    drawn from it with equal chances, and the label is the class of the largest score

    $$s_c = \sum_t v_t\,[c_t = c], \qquad y = \arg\max_c s_c .$$

    Only differences between scores matter, so a network that solves it integrates in C - 1 dimensions.

    **Arguments:**

    - `key`: fixes the words.
    - `num_classes`: C, at least 2.
    - `num_steps`: words, T.

    **Returns:** a `Trial`: inputs `(T, 5 C)`, one-hot, word `5 c + i` with valence i of class c; targets `(T, C)`, the
    one-hot label at every step; mask `(T,)`, 1 at the last step only, and 0 there too where the largest score is
    shared and no label is right.

    **Raises:** `ValueError` for fewer than 2 classes or 1 step.

    ??? cite "Reference"
        K. Aitken, V. Ramasesh, A. Garg, Y. Cao, D. Sussillo & N. Maheswaranathan (2021), "The geometry of integration
        in text classification RNNs", ICLR, arXiv 2010.15114.
    """
    check_at_least("num_classes", num_classes, 2)
    check_at_least("num_steps", num_steps, 1)
    num_words = len(VALENCES) * num_classes
    words = jax.random.randint(key, (num_steps,), 0, num_words)
    valences = jnp.asarray(VALENCES)[words % len(VALENCES)]
    classes = jax.nn.one_hot(words // len(VALENCES), num_classes)
    scores = jnp.sum(classes * valences[:, None], axis=0)
    is_decided = jnp.sum(scores == jnp.max(scores)) == 1
    target = jax.nn.one_hot(jnp.argmax(scores), num_classes)
    last = jnp.arange(num_steps) == num_steps - 1
    return Trial(
        jax.nn.one_hot(words, num_words),
        jnp.broadcast_to(target, (num_steps, num_classes)),
        (last & is_decided).astype(scores.dtype),
    )
