"""The flip-flop task: bits that pulses set and that must be held."""

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from rnndyn._validation import check_at_least
from rnndyn.tasks._checks import check_probability
from rnndyn.tasks.trial import Trial


def flip_flop(*, key: PRNGKeyArray, num_bits: int = 3, num_steps: int = 64, pulse_probability: float = 0.2) -> Trial:
    r"""Hold the sign of the last pulse of every channel.

    Independently for every bit b and step t, a pulse comes with probability p, and is +1 or -1 with equal chances:

    $$u_{tb} \in \{0, +1, -1\}, \qquad
    y_{tb} = \begin{cases} u_{tb} & u_{tb} \ne 0 \\ y_{t-1,b} & u_{tb} = 0 \end{cases}, \qquad y_{-1,b} = 0.$$

    A bit that had no pulse yet is 0, a third state which the network meets at the start of every trial. A network
    that keeps its bits independently then has, at zero input, one fixed point for each of the $3^{\text{num\_bits}}$
    combinations of -1, 0, +1, of which those without a 0 are the stable memories.

    **Arguments:**

    - `key`: fixes the pulses.
    - `num_bits`: channels, B.
    - `num_steps`: length of the trial, T.
    - `pulse_probability`: p, of a pulse per bit and step. Its inverse is the mean number of steps to hold a bit.

    **Returns:** a `Trial`: inputs `(T, B)`, targets `(T, B)`, mask `(T,)` of ones.

    **Raises:** `ValueError` for a number of bits or steps below 1, or a probability outside [0, 1].

    ??? cite "Reference"
        D. Sussillo & O. Barak (2013), "Opening the black box: low-dimensional dynamics in high-dimensional recurrent
        neural networks", Neural Computation 25, 626-649.
    """
    check_at_least("num_bits", num_bits, 1)
    check_at_least("num_steps", num_steps, 1)
    check_probability("pulse_probability", pulse_probability)
    key_pulse, key_sign = jax.random.split(key)
    shape = (num_steps, num_bits)
    pulsed = jax.random.bernoulli(key_pulse, pulse_probability, shape)
    signs = jax.random.rademacher(key_sign, shape, dtype=float)
    inputs = jnp.where(pulsed, signs, 0)
    steps = jnp.arange(num_steps)[:, None]
    # A bit without a pulse so far points at step 0, whose input is then 0: the value it has to have.
    last_pulse = jax.lax.cummax(jnp.where(pulsed, steps, 0), axis=0)
    targets = jnp.take_along_axis(inputs, last_pulse, axis=0)
    return Trial(inputs, targets, jnp.ones(num_steps))
