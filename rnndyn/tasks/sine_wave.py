"""The sine-wave task: an oscillation whose frequency the input sets."""

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from rnndyn._validation import check_at_least
from rnndyn.tasks.trial import Trial


def sine_wave(
    *,
    key: PRNGKeyArray,
    num_steps: int = 128,
    num_frequencies: int = 51,
    min_frequency: float = 0.1,
    max_frequency: float = 0.6,
) -> Trial:
    r"""Generate a sine wave whose frequency is set by a constant input.

    One of M frequencies is drawn, each with the same chance, and held for the trial:

    $$j \in \{1, \dots, M\}, \qquad u_t = j / M + 0.25, \qquad y_t = \sin(\omega_j t), \qquad
    \omega_j = \omega_{\min} + \frac{j - 1}{M - 1} (\omega_{\max} - \omega_{\min}), \qquad t = 0, 1, \dots, T - 1.$$

    With the input held the trained network has a limit cycle, and inside it a fixed point whose leading multipliers
    turn by about $\omega_j$.

    **Arguments:**

    - `key`: fixes the frequency.
    - `num_steps`: length of the trial, T.
    - `num_frequencies`: M; 1 gives `min_frequency` always.
    - `min_frequency`, `max_frequency`: in radians per step, above 0 and at most π. (The paper has radians per
      second, with the same numbers.)

    **Returns:** a `Trial`: inputs `(T, 1)`, targets `(T, 1)`, mask `(T,)` of ones.

    **Raises:** `ValueError` for a number of steps or frequencies below 1, or frequencies out of order or range.

    ??? cite "Reference"
        D. Sussillo & O. Barak (2013), "Opening the black box: low-dimensional dynamics in high-dimensional recurrent
        neural networks", Neural Computation 25, 626-649.
    """
    check_at_least("num_steps", num_steps, 1)
    check_at_least("num_frequencies", num_frequencies, 1)
    if not 0 < min_frequency <= max_frequency <= jnp.pi:
        raise ValueError(
            "min_frequency, max_frequency: expected 0 < min_frequency <= max_frequency <= pi radians per step (faster "
            f"oscillations cannot be told from slower ones), got {min_frequency} and {max_frequency}."
        )
    index = jax.random.randint(key, (), 1, num_frequencies + 1)
    frequency = jnp.linspace(min_frequency, max_frequency, num_frequencies)[index - 1]
    inputs = jnp.full((num_steps, 1), index / num_frequencies + 0.25)
    targets = jnp.sin(frequency * jnp.arange(num_steps))[:, None]
    return Trial(inputs, targets, jnp.ones(num_steps))
