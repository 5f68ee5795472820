"""Whether a map is proved to take a box into itself, and the box of one that takes all large boxes into themselves."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Array, Float

from rnndyn.dynamics.numerics.evaluation import images_of
from rnndyn.dynamics.numerics.trapping import boxes_around
from rnndyn.dynamics.proofs.intervals import enclose_boxes

_NUM_DOUBLINGS = 24
"""Boxes that are looked at: the first few leave behind units that saturate, the last what powers of a state keep."""

Box = Float[np.ndarray, "2 N"]


def is_kept(f: Callable[[Array], Array], box: Box) -> bool:
    """Whether F, continuous there, is proved to take a box into itself: one interval evaluation over all of it.

    For a layer of monotone units, each of one weighted sum, the enclosure is the range itself; what uses a state
    several times is overestimated. False is no proof of the contrary, and is all there is for a map with an operation
    that has no interval rule.
    """
    image = _image(f, box)
    return image is not None and _holds(box, image)


def region_of_range(f: Callable[[Array], Array], states: Float[np.ndarray, "M N"]) -> Box | None:
    """A box around states that F, continuous there, is proved to take into itself, as larger boxes are; else `None`.

    That is how maps of bounded range are told, such as layers of units that saturate, without being asked for their
    range. A box around the states and their images is doubled about its centre, and made to hold its own image, 24
    times over; the first of those from which on all are kept serves. A map that keeps a small box only, as $x^2$ does,
    has none: there are states worth a search outside of it.
    """
    start = next(iter(boxes_around(states, images_of(f, states))), None)
    if start is None:
        return None
    box, found = start, None
    for _ in range(_NUM_DOUBLINGS):
        image = _image(f, box)
        if image is None or not np.isfinite(image).all():
            return None
        if not _holds(box, image):
            found = None
        elif found is None:
            found = _tightened(box, start, image)
        half = 0.5 * (box[1] - box[0])
        box = np.stack([np.minimum(box[0] - half, image[0]), np.maximum(box[1] + half, image[1])])
    return found


def _tightened(box: Box, start: Box, image: Box) -> Box:
    """Of a box that F keeps, a part that it keeps: any that holds the image of the whole does."""
    low, high = np.minimum(start[0], image[0]), np.maximum(start[1], image[1])
    # With a margin: unstable fixed points on the edge of a box have no index.
    margin = 0.05 * (high - low)
    return np.stack([np.maximum(box[0], low - margin), np.minimum(box[1], high + margin)])


def _image(f: Callable[[Array], Array], box: Box) -> Box | None:
    """Bounds of F over a box; `None` where it has no rule for an operation, or may jump or be undefined in the box."""
    try:
        # One direction that no entry is left out of: of what does not depend on the state nothing jumps.
        over = enclose_boxes(f, box[None, 0], box[None, 1], directions=np.ones((1, box.shape[1])))
    except NotImplementedError:
        return None
    if np.any(over.jumps) or np.any(over.undefined):
        return None
    return np.stack([np.asarray(over.value.lo)[0], np.asarray(over.value.hi)[0]])


def _holds(box: Box, image: Box) -> bool:
    return bool(np.all(image[0] >= box[0]) and np.all(image[1] <= box[1]))
