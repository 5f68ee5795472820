"""Whether a map is proved to take a box into itself, and the box of one that takes all large boxes into themselves."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from rnndyn._programs import Program, compiled, member
from rnndyn.dynamics.numerics.drivers import map_in_chunks
from rnndyn.dynamics.numerics.evaluation import images_of
from rnndyn.dynamics.numerics.trapping import boxes_around
from rnndyn.dynamics.proofs.interval_arithmetic import Interval
from rnndyn.dynamics.proofs.intervals import LARGEST_BATCHED, Enclosure, enclose, enclose_boxes

_NUM_DOUBLINGS = 24
"""Boxes that are looked at: the first few leave behind units that saturate, the last what powers of a state keep."""

_SIDE_BY_SIDE = 16
"""Boxes of several maps in one program."""

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

    def image_of(boxes: np.ndarray, rows: np.ndarray) -> np.ndarray:
        image = _image(f, boxes[0])
        return np.full_like(boxes, np.nan) if image is None else image[None]

    return _kept_from_doubling(image_of, start[None])[0]


def regions_of_ranges(
    family: Program,
    members: Int[np.ndarray, " K"],
    states: Sequence[Float[np.ndarray, "M N"]],
    images: Sequence[Float[np.ndarray, "M N"]],
) -> list[Box | None]:
    """`region_of_range` of several members of a family of maps, each around its own states with these images."""
    around = {i: boxes[0] for i, boxes in enumerate(map(boxes_around, states, images)) if boxes}
    rows = list(around)
    regions: list[Box | None] = [None] * len(states)
    if not rows:
        return regions

    def image_of(boxes: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        owners = members[rows][chosen]
        try:
            over = map_in_chunks(
                lambda part: _enclose_members(family, *part),
                (owners, boxes[:, 0], boxes[:, 1]),
                bytes_per_item=256 * boxes.shape[2] ** 2,
                description="",
                progress=False,
                least_size=_SIDE_BY_SIDE,
                most_size=_SIDE_BY_SIDE,
            )
        except NotImplementedError:
            return np.full_like(boxes, np.nan)
        is_known = ~(over.jumps | over.undefined)
        return np.where(is_known[:, None, None], np.stack([over.value.lo, over.value.hi], axis=1), np.nan)

    kept = _kept_from_doubling(image_of, np.stack(list(around.values())))
    for i, box in zip(rows, kept):
        regions[i] = box
    return regions


def _kept_from_doubling(
    image_of: Callable[[np.ndarray, np.ndarray], np.ndarray], starts: Float[np.ndarray, "K 2 N"]
) -> list[Box | None]:
    """See `region_of_range`; `image_of(boxes, rows)` encloses the images, NaN where nothing is known."""
    boxes, rows = starts.copy(), np.arange(len(starts))
    found: list[Box | None] = [None] * len(starts)
    for _ in range(_NUM_DOUBLINGS):
        images = image_of(boxes[rows], rows)
        is_finite = np.isfinite(images).all(axis=(1, 2))
        for i in rows[~is_finite]:
            found[i] = None
        rows, images = rows[is_finite], images[is_finite]
        if rows.size == 0:
            break
        for i, image in zip(rows, images):
            if not _holds(boxes[i], image):
                found[i] = None
            elif found[i] is None:
                found[i] = _tightened(boxes[i], starts[i], image)
        low, high = boxes[rows, 0], boxes[rows, 1]
        half = 0.5 * (high - low)
        boxes[rows, 0] = np.minimum(low - half, images[:, 0])
        boxes[rows, 1] = np.maximum(high + half, images[:, 1])
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
        over = enclose_boxes(f, box[None, 0], box[None, 1], directions=_every_entry(box.shape[1]))
    except NotImplementedError:
        return None
    if np.any(np.asarray(over.jumps)) or np.any(np.asarray(over.undefined)):
        return None
    return np.stack([np.asarray(over.value.lo)[0], np.asarray(over.value.hi)[0]])


@compiled
def _enclose_members(family: Program, members: Any, lower: Any, upper: Any) -> Enclosure:
    """One box of each of several members."""

    def one(item: tuple[Array, Array, Array]) -> Enclosure:
        i, low, high = item
        return enclose(member(family, i), Interval(low, high), directions=_every_entry(low.size))

    items = (members, jnp.asarray(lower), jnp.asarray(upper))
    return jax.lax.map(one, items) if lower.shape[1] > LARGEST_BATCHED else jax.vmap(one)(items)


def _every_entry(size: int) -> np.ndarray:
    """One direction that no entry is left out of: of what does not depend on the state nothing jumps."""
    return np.ones((1, size))


def _holds(box: Box, image: Box) -> bool:
    return bool(np.all(image[0] >= box[0]) and np.all(image[1] <= box[1]))
