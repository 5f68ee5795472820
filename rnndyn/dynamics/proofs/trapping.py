"""Whether a map is proved to take a box into itself."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Array, Float

from rnndyn.dynamics.proofs.intervals import enclose_boxes


def is_kept(f: Callable[[Array], Array], box: Float[np.ndarray, "2 N"]) -> bool:
    """Whether F, continuous there, is proved to take a box into itself: one interval evaluation over all of it.

    For a layer of monotone units, each of one weighted sum, the enclosure is the range itself; what uses a state
    several times is overestimated. False is no proof of the contrary, and is all there is for a map with an operation
    that has no interval rule.
    """
    try:
        over = enclose_boxes(f, box[None, 0], box[None, 1], with_jacobian=False)
    except NotImplementedError:
        return False
    inside = np.all(np.asarray(over.value.lo) >= box[0]) and np.all(np.asarray(over.value.hi) <= box[1])
    return bool(inside and not np.any(over.jumps) and not np.any(over.undefined))
