"""The adding task: the sum of two marked numbers."""

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from rnndyn._validation import check_at_least
from rnndyn.tasks.trial import Trial


def adding(*, key: PRNGKeyArray, num_steps: int = 100) -> Trial:
    r"""Add the two numbers of a sequence that were marked.

    $$u_t = (v_t, m_t), \qquad v_t \sim \mathcal U(0, 1), \qquad m_t = [t = i \text{ or } t = j], \qquad
    y_{T-1} = v_i + v_j,$$

    with i uniform in the first half of the sequence ($0 \le i < \lfloor T/2 \rfloor$) and j in the second. Only the
    last step counts. Answering 1 whatever comes gives a mean squared error of 1/6.

    **Arguments:**

    - `key`: fixes the numbers and the marks.
    - `num_steps`: length of the sequence, T; at least 2.

    **Returns:** a `Trial`: inputs `(T, 2)`, targets `(T, 1)`, which are the sum at the last step and 0 before,
    mask `(T,)`, which is 1 at the last step only.

    **Raises:** `ValueError` for fewer than 2 steps.

    ??? cite "Reference"
        S. Hochreiter & J. Schmidhuber (1997), "Long short-term memory", Neural Computation 9, 1735-1780, for the
        task (numbers in [-1, 1], both marks early); Q. V. Le, N. Jaitly & G. E. Hinton (2015), "A simple way to
        initialize recurrent networks of rectified linear units", arXiv:1504.00941, for numbers in [0, 1].
    """
    check_at_least("num_steps", num_steps, 2)
    key_values, key_first, key_second = jax.random.split(key, 3)
    half = num_steps // 2
    values = jax.random.uniform(key_values, (num_steps,))
    first = jax.random.randint(key_first, (), 0, half)
    second = jax.random.randint(key_second, (), half, num_steps)
    marks = jnp.zeros(num_steps).at[jnp.stack([first, second])].set(1)
    mask = jnp.zeros(num_steps).at[-1].set(1)
    targets = mask * (values[first] + values[second])
    return Trial(jnp.stack([values, marks], axis=1), targets[:, None], mask)
