"""The tasks by name."""

from collections.abc import Callable

import equinox as eqx

from rnndyn.tasks.adding import adding
from rnndyn.tasks.context_integration import context_integration
from rnndyn.tasks.delayed_copy import delayed_copy
from rnndyn.tasks.flip_flop import flip_flop
from rnndyn.tasks.negation import negation
from rnndyn.tasks.ring_rules import ring_rules
from rnndyn.tasks.sine_wave import sine_wave
from rnndyn.tasks.text_integration import text_integration
from rnndyn.tasks.trial import Trial


class Task(eqx.Module):
    """An entry of the registry."""

    generate: Callable[..., Trial]
    """`generate(key=key, **options)` -> a trial."""
    description: str
    """What the network has to do, in a sentence."""
    reference: str
    """Where the task comes from."""


TASKS: dict[str, Task] = {
    "adding": Task(
        adding,
        "Add the two numbers that were marked in a long sequence.",
        "Hochreiter & Schmidhuber (1997), Long short-term memory",
    ),
    "context_integration": Task(
        context_integration,
        "Integrate the one of two noisy streams that the context names, and report its sign.",
        "Mante, Sussillo, Shenoy & Newsome (2013), Context-dependent computation by recurrent dynamics in "
        "prefrontal cortex",
    ),
    "delayed_copy": Task(
        delayed_copy,
        "Repeat a sequence of symbols after a delay.",
        "Hochreiter & Schmidhuber (1997), Long short-term memory; Arjovsky, Shah & Bengio (2016), Unitary evolution "
        "recurrent neural networks",
    ),
    "flip_flop": Task(
        flip_flop,
        "Hold the sign of the last pulse of every input channel.",
        "Sussillo & Barak (2013), Opening the black box",
    ),
    "negation": Task(
        negation,
        "Tell whether a text is positive, where a modifier negates the two words that follow it.",
        "Maheswaranathan & Sussillo (2020), How recurrent networks implement contextual processing in sentiment "
        "analysis",
    ),
    "ring_rules": Task(
        ring_rules,
        "Respond on a ring, at the place of a stimulus or opposite to it, when the rule says so.",
        "Yang et al. (2019), Task representations in neural networks trained to perform many cognitive tasks; "
        "Driscoll, Shenoy & Sussillo (2024), Flexible multitask computation in recurrent networks utilizes shared "
        "dynamical motifs",
    ),
    "sine_wave": Task(
        sine_wave,
        "Generate a sine wave whose frequency a constant input sets.",
        "Sussillo & Barak (2013), Opening the black box",
    ),
    "text_integration": Task(
        text_integration,
        "Name the class for which the words of a text speak most.",
        "Aitken et al. (2021), The geometry of integration in text classification RNNs",
    ),
}
"""Every task by name, for `rnndyn.tasks.batches` and for listings."""


def find_task(name: str) -> Task:
    """The task of that name.

    **Arguments:**

    - `name`: as in `rnndyn.tasks.batches`, `"flip_flop"` for instance.

    **Returns:** a function `task(key, **options)` that makes one trial.

    **Raises:** `ValueError` that lists the known names when there is none.
    """
    if name not in TASKS:
        raise ValueError(f"task: there is no task {name!r}. Known tasks: {', '.join(sorted(TASKS))}.")
    return TASKS[name]
