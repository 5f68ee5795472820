"""The delayed-copy task: repeat a sequence after a delay."""

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from rnndyn._validation import check_at_least
from rnndyn.tasks.trial import Trial


def delayed_copy(*, key: PRNGKeyArray, length: int = 5, delay: int = 20, num_symbols: int = 8) -> Trial:
    r"""Repeat a sequence of symbols after a delay.

    L symbols out of K are shown one per step, nothing is shown for D steps, and from a go cue on the network must
    give the symbols back in order: T = 2L + D steps, the cue coming at step L + D together with the first answer,

    $$u_t = e_{s_t} \; (t < L), \qquad u_{L+D} = e_K, \qquad y_{L+D+i} = e_{s_i} \; (0 \le i < L),$$

    with $e_k$ the k-th unit vector and zero elsewhere. The answer counts from the cue on; without a memory the
    cross-entropy is ln K per step that counts.

    **Arguments:**

    - `key`: fixes the symbols.
    - `length`: symbols to remember, L.
    - `delay`: steps between the last symbol and the cue, D; 0 or more.
    - `num_symbols`: K, different symbols; at least 2.

    **Returns:** a `Trial`: inputs `(T, K + 1)`, targets `(T, K)` one-hot in the answer, mask `(T,)` of ones in the
    answer.

    **Raises:** `ValueError` for a length below 1, a negative delay, or fewer than 2 symbols.

    ??? cite "Reference"
        S. Hochreiter & J. Schmidhuber (1997), "Long short-term memory", Neural Computation 9, 1735-1780, for the
        kind of task; M. Arjovsky, A. Shah & Y. Bengio (2016), "Unitary evolution recurrent neural networks", ICML,
        for this form (there the outputs before the cue count too, and must be blank).
    """
    check_at_least("length", length, 1)
    check_at_least("delay", delay, 0)
    check_at_least("num_symbols", num_symbols, 2)
    num_steps = 2 * length + delay
    symbols = jax.nn.one_hot(jax.random.randint(key, (length,), 0, num_symbols), num_symbols)
    cue = length + delay
    inputs = jnp.zeros((num_steps, num_symbols + 1)).at[:length, :num_symbols].set(symbols).at[cue, num_symbols].set(1)
    targets = jnp.zeros((num_steps, num_symbols)).at[cue:].set(symbols)
    return Trial(inputs, targets, (jnp.arange(num_steps) >= cue).astype(inputs.dtype))
