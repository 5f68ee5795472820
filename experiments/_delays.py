"""Delayed discrimination of two stimuli, and what holds the first one through the delay of a trained network."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

import rnndyn as rd

STIMULUS_STEPS = 2
RESPONSE_STEPS = 3


def delayed_discrimination(
    *, key: PRNGKeyArray, least_delay: int, most_delay: int, longest: int, difference: float
) -> rd.tasks.Trial:
    """Which of two stimuli is larger: value and presence of the stimulus in, the sign of second minus first out.

    The first is uniform on [-1, 1], the second larger or smaller by `difference`. The trial is padded to the length of
    one with the delay `longest`.
    """
    first_key, sign_key, delay_key = jax.random.split(key, 3)
    first = jax.random.uniform(first_key, minval=-1, maxval=1)
    sign = jax.random.rademacher(sign_key, dtype=first.dtype)
    delay = jax.random.randint(delay_key, (), least_delay, most_delay + 1)
    step = jnp.arange(2 * STIMULUS_STEPS + longest + RESPONSE_STEPS)
    again = STIMULUS_STEPS + delay
    shows_first, shows_second = step < STIMULUS_STEPS, (step >= again) & (step < again + STIMULUS_STEPS)
    value = shows_first * first + shows_second * (first + sign * difference)
    counts = (step >= again + STIMULUS_STEPS) & (step < again + STIMULUS_STEPS + RESPONSE_STEPS)
    inputs = jnp.stack([value, (shows_first | shows_second).astype(value.dtype)], axis=1)
    return rd.tasks.Trial(inputs, sign * counts[:, None].astype(value.dtype), counts.astype(value.dtype))


def best_without_memory(difference: float) -> float:
    """The best share of right answers from the second stimulus alone: it decides only where one sign could make it."""
    # The second is uniform on [-1 + d, 1 + d] or [-1 - d, 1 - d]: d of 2 of each lies outside of the other, doubled.
    return 0.5 + 0.5 * min(difference, 1.0)


class DelayNetwork(rd.Result):
    """One trained network.

    - `accuracies`: share of right answers at each delay of the test.
    - `states`: visible states through the delay without a second stimulus, (stimulus, step, N).
    - `ends`: where they end, (stimulus, N).
    - `num_ends`: in how many places.
    - `end_speed`: how far a step still moves them, the median.
    - `late_score`: R^2 of the readout of the stimulus fitted at half of the delay, at its end.
    - `own_score`: the same, fitted at the end too.
    - `long_score`: R^2 of a readout of the stimulus fitted where the states end.
    - `travel`: the length of the mean path in the second half of the delay over the spread of the stimuli.
    """

    cell: str
    delays: str
    seed: int
    accuracies: np.ndarray
    states: np.ndarray
    ends: np.ndarray
    num_ends: int
    end_speed: float
    late_score: float
    own_score: float
    long_score: float
    travel: float


@eqx.filter_jit
def delay_states(
    models: Any, num_stimuli: int, num_delay: int, num_long: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Flat states through a delay (network, stimulus, step, N), where they end, and one step after (.., N)."""
    stimuli = jnp.linspace(-1, 1, num_stimuli)
    zero = jnp.zeros(2)

    def one(model: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        f = rd.as_driven_map(model.cell)

        def delay(value: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
            start = f.flatten(model.cell.initial_state())
            shown = jax.lax.fori_loop(0, STIMULUS_STEPS, lambda _, x: f(x, jnp.stack([value, 1.0])), start)
            last, path = jax.lax.scan(lambda x, _: (f(x, zero), x), shown, length=num_delay + 1)
            end = jax.lax.fori_loop(0, num_long, lambda _, x: f(x, zero), last)
            return path, end, f(end, zero)

        return jax.vmap(delay)(stimuli)

    return eqx.filter_vmap(one)(models)


def look(
    name: str,
    delays: str,
    seed: int,
    accuracies: np.ndarray,
    states: np.ndarray,
    ends: np.ndarray,
    after: np.ndarray,
    num_delay: int,
) -> DelayNetwork:
    """What one network does in its delay."""
    stimuli = np.linspace(-1, 1, len(states))
    half, late = num_delay // 2, num_delay
    apart = np.mean([spread(states[:, step]) for step in range(half, late + 1)])
    center = states.mean(axis=0)
    way = np.sum(np.linalg.norm(np.diff(center[half : late + 1], axis=0), axis=1))
    distances = np.linalg.norm(ends[:, None] - ends, axis=-1)
    # States that end together are equal to the precision of float32.
    num_ends = len(np.unique(np.argmax(distances < 1e-2, axis=1)))
    return DelayNetwork(
        cell=name,
        delays=delays,
        seed=seed,
        accuracies=accuracies,
        states=states,
        ends=ends,
        num_ends=num_ends,
        end_speed=float(np.median(np.linalg.norm(after - ends, axis=1))),
        late_score=score(states[:, half], states[:, late], stimuli),
        own_score=score(states[:, late], states[:, late], stimuli),
        long_score=score(ends, ends, stimuli),
        travel=float(way / apart),
    )


def spread(states: np.ndarray) -> float:
    """The root-mean-square distance of some states from their mean."""
    return float(np.sqrt(np.mean(np.sum((states - states.mean(axis=0)) ** 2, axis=1))))


def score(fitted_on: np.ndarray, used_on: np.ndarray, stimuli: np.ndarray) -> float:
    """R^2, 0 at least, of a linear readout of the stimulus that is fitted on some states, on others.

    Of the states only the leading component is read: more would fit any set of smooth curves.
    """
    mean = fitted_on.mean(axis=0)
    axis = np.linalg.svd(fitted_on - mean, full_matrices=False)[2][0]
    projected = (fitted_on - mean) @ axis
    scale = projected @ projected
    slope = projected @ stimuli / scale if scale > 1e-12 else 0.0
    error = np.mean((slope * ((used_on - mean) @ axis) - stimuli) ** 2)
    return float(max(1 - error / np.mean(stimuli**2), 0.0))
