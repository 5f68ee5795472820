"""Several tasks in one network: where on a ring to respond, and when, as a rule input says."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from rnndyn._validation import check_at_least
from rnndyn.tasks.trial import Trial

RING_RULES = ("delay_pro", "delay_anti", "memory_pro", "memory_anti", "react_pro", "react_anti")
"""The rules that `ring_rules` knows, in the order of their inputs."""


def ring_rules(
    *,
    key: PRNGKeyArray,
    rules: Sequence[str] = RING_RULES,
    num_steps: int = 50,
    context_steps: tuple[int, int] = (4, 8),
    stimulus_steps: tuple[int, int] = (6, 14),
    memory_steps: tuple[int, int] = (6, 14),
    grace_steps: int = 3,
    noise_std: float = 0.1,
) -> Trial:
    r"""Respond on a ring, at the place of a stimulus or opposite to it, when the rule says so.

    A rule and an angle $\theta$ are drawn, and how long the context, the stimulus and the memory last, all
    independently. The rule's input is 1 throughout. With the stimulus on from $t_1$ on, and $t_1 < t_2 < t_3$,

    | rule | stimulus is on | fixation is on | go |
    |---|---|---|---|
    | `delay_...` | from $t_1$ | before go | $t_2$ |
    | `memory_...` | from $t_1$ to $t_2$ | before go | $t_3$ |
    | `react_...` | from $t_1$ | throughout | $t_1$ |

    $$y_t = (1, 0, 0) \;\; (t < \text{go}), \qquad y_t = (0, \cos\phi, \sin\phi) \;\; (t \ge \text{go}), \qquad
    \phi = \theta \; (\text{pro}), \;\; \theta + \pi \; (\text{anti}).$$

    **Arguments:**

    - `key`: fixes the rule, the angle, the times and the noise.
    - `rules`: which of `RING_RULES` occur, R of them; their inputs come in this order.
    - `num_steps`: length of the trial, T.
    - `context_steps`, `stimulus_steps`, `memory_steps`: the least and the most steps that the rule is alone, until
      $t_2$, and from $t_2$ to $t_3$, uniform in between.
    - `grace_steps`: steps from go on that do not count.
    - `noise_std`: σ of the Gaussian noise per step on fixation and stimulus.

    **Returns:** a `Trial`: inputs `(T, 3 + R)` (fixation, cos and sin of the stimulus, rules), targets `(T, 3)`
    (fixation, cos and sin of the response), mask `(T,)` of 0 in the grace steps and 1 elsewhere.

    **Raises:** `ValueError` for an unknown or repeated rule, times out of order, or a trial too short for a response.

    Context and memory of a memory task have the same input: what differs is the state. The two papers train up to
    twenty tasks, with two rings of stimuli; these are their tasks Go, Anti, Delay Go, ... on one ring.

    ??? cite "Reference"
        G. R. Yang, M. R. Joglekar, H. F. Song, W. T. Newsome & X.-J. Wang (2019), "Task representations in neural
        networks trained to perform many cognitive tasks", Nature Neuroscience 22, 297-306; L. N. Driscoll, K. Shenoy &
        D. Sussillo (2024), "Flexible multitask computation in recurrent networks utilizes shared dynamical motifs",
        Nature Neuroscience 27, 1349-1363.
    """
    rules = tuple(rules)
    if not rules or len(set(rules)) < len(rules) or not set(rules) <= set(RING_RULES):
        raise ValueError(f"rules: expected one or more of {', '.join(RING_RULES)}, each once, got {rules}.")
    ranges = {"context_steps": context_steps, "stimulus_steps": stimulus_steps, "memory_steps": memory_steps}
    for name, (least, most) in ranges.items():
        check_at_least(f"{name}: the least", least, 1)
        if most < least:
            raise ValueError(f"{name}: expected (least, most) in this order, got {(least, most)}.")
    check_at_least("grace_steps", grace_steps, 0)
    check_at_least("noise_std", noise_std, 0)
    latest = sum(most for _, most in ranges.values()) + grace_steps
    if num_steps <= latest:
        raise ValueError(
            f"num_steps: expected more than {latest}, the longest context, stimulus, memory and grace together, got "
            f"{num_steps}."
        )

    rule_key, angle_key, time_key, noise_key = jax.random.split(key, 4)
    rule = jax.random.randint(rule_key, (), 0, len(rules))
    angle = jax.random.uniform(angle_key, maxval=2 * jnp.pi)
    least, most = np.array(list(ranges.values())).T
    onset, offset, end = jnp.cumsum(jax.random.randint(time_key, (3,), least, most + 1))
    kind = jnp.asarray([RING_RULES.index(name) for name in rules])[rule]
    is_memory, is_react, is_anti = kind // 2 == 1, kind // 2 == 2, kind % 2 == 1
    go = jnp.where(is_memory, end, jnp.where(is_react, onset, offset))
    step = jnp.arange(num_steps)
    seen = (step >= onset) & ((step < offset) | ~is_memory)
    waits = step < go
    place = jnp.stack([jnp.cos(angle), jnp.sin(angle)])
    clean = jnp.concatenate([(waits | is_react)[:, None], seen[:, None] * place], axis=1)
    noisy = clean + noise_std * jax.random.normal(noise_key, clean.shape)
    cue = jnp.broadcast_to(jax.nn.one_hot(rule, len(rules)), (num_steps, len(rules)))
    response = jnp.where(is_anti, -place, place)
    targets = jnp.concatenate([waits[:, None], ~waits[:, None] * response], axis=1).astype(noisy.dtype)
    mask = (waits | (step >= go + grace_steps)).astype(noisy.dtype)
    return Trial(jnp.concatenate([noisy, cue], axis=1), targets, mask)
