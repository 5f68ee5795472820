"""One trial of a task."""

from typing import NamedTuple

from jaxtyping import Array, Float


class Trial(NamedTuple):
    """One trial of a task; with a leading axis on every array, a batch of trials."""

    inputs: Float[Array, "*B T I"]
    """What the network sees at every step."""
    targets: Float[Array, "*B T O"]
    """What it should answer at every step."""
    mask: Float[Array, "*B T"]
    """1 at the steps whose answer counts, 0 elsewhere."""
