"""The context-dependent integration task: two noisy streams, one of which counts."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from rnndyn._validation import check_at_least
from rnndyn.tasks.trial import Trial


def context_integration(
    *,
    key: PRNGKeyArray,
    num_steps: int = 50,
    num_response_steps: int = 10,
    coherences: Sequence[float] = (0.05, 0.15, 0.5),
    noise_std: float = 0.5,
) -> Trial:
    r"""Report the sign of the mean of that one of two noisy streams which the context names.

    Each of the two streams ("motion" and "colour") has a coherence $d_k$, drawn from the given strengths with either
    sign, and a context c in {0, 1} is drawn, all independently and with equal chances. While the stimulus is on,

    $$u_{t,k} = d_k + \sigma \xi_{t,k} \quad (k = 0, 1), \qquad u_{t,2+k} = [k = c],
    \qquad y = \operatorname{sign} d_c, \qquad \xi_{t,k} \sim \mathcal N(0, 1).$$

    The stimulus is off, and the answer counts, during the last `num_response_steps` steps; the context stays on
    throughout. Over the stimulus of $T_s$ steps, the mean of the stream that counts is
    $d_c \sqrt{T_s} / \sigma$ standard deviations from zero, which bounds what any network can do: an ideal observer
    is right with probability $\Phi(|d_c| \sqrt{T_s} / \sigma)$.

    **Arguments:**

    - `key`: fixes the coherences, the context and the noise.
    - `num_steps`: length of the trial, T.
    - `num_response_steps`: steps at the end, without stimulus, at which the answer counts; at least 1, below T.
    - `coherences`: the strengths |d| that occur, positive.
    - `noise_std`: σ, the standard deviation of the noise per step.

    **Returns:** a `Trial`: inputs `(T, 4)` (stream 0, stream 1, context 0, context 1), targets `(T, 1)` with
    $\operatorname{sign} d_c$ in the response and 0 before it, mask `(T,)` of ones in the response.

    **Raises:** `ValueError` for a response that leaves no stimulus, coherences that are not positive, or a negative
    `noise_std`.

    The paper's coherences are those of the monkeys' random dots and its model integrates in continuous time; the
    defaults here keep three strengths per stream at about the same difficulty, in discrete steps.

    ??? cite "Reference"
        V. Mante, D. Sussillo, K. V. Shenoy & W. T. Newsome (2013), "Context-dependent computation by recurrent
        dynamics in prefrontal cortex", Nature 503, 78-84.
    """
    check_at_least("num_response_steps", num_response_steps, 1)
    if num_steps <= num_response_steps:
        raise ValueError(
            f"num_steps: expected more than num_response_steps = {num_response_steps}, for the stimulus, got "
            f"{num_steps}."
        )
    check_at_least("noise_std", noise_std, 0)
    strengths = np.asarray(coherences, dtype=float)
    if strengths.ndim != 1 or strengths.size == 0 or not (strengths > 0).all():
        raise ValueError(f"coherences: expected one or more positive numbers, got {coherences}.")

    key_strength, key_sign, key_context, key_noise = jax.random.split(key, 4)
    signs = jax.random.rademacher(key_sign, (2,), dtype=float)
    evidence = signs * jax.random.choice(key_strength, jnp.asarray(strengths), (2,))
    context = jax.random.randint(key_context, (), 0, 2)
    in_response = jnp.arange(num_steps) >= num_steps - num_response_steps
    streams = evidence + noise_std * jax.random.normal(key_noise, (num_steps, 2))
    streams = jnp.where(in_response[:, None], 0, streams)
    cue = jnp.broadcast_to(jax.nn.one_hot(context, 2), (num_steps, 2))
    mask = in_response.astype(streams.dtype)
    return Trial(jnp.concatenate([streams, cue], axis=1), (signs[context] * mask)[:, None], mask)
