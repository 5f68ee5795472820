"""One step of many sets under their symbols: the compiled part of the proof."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rnndyn._programs import compiled
from rnndyn.dynamics.proofs.affine_forms import (
    AffineForm,
    as_interval,
    deviation,
    reduced,
    rounded,
    spread_as_generators,
    sum_error,
)
from rnndyn.dynamics.proofs.affine_images import affine_image
from rnndyn.dynamics.proofs.interval_arithmetic import UNIT_ROUNDOFF


class Advanced(NamedTuple):
    """B sets after one symbol each.

    - `center` (B, N), `generators` (B, K, N), `spread` (B, N): the images.
    - `answer_lower`, `answer_upper` (B,): bounds of the readout over each.
    - `sizes` (B,): the Euclidean norm of the half-widths.
    """

    center: Any
    generators: Any
    spread: Any
    answer_lower: Any
    answer_upper: Any
    sizes: Any


@compiled
def advance(
    g: Callable,
    readout: Callable,
    center: Float[Array | np.ndarray, "B N"],
    generators: Float[Array | np.ndarray, "B K N"],
    spread: Float[Array | np.ndarray, "B N"],
    inputs: Float[Array | np.ndarray, "B I"],
) -> Advanced:
    """Images of sets, with no more generators than before, and their answers."""
    num_generators = generators.shape[1]

    def one(center, generators, spread, input):
        whole = spread_as_generators(AffineForm(center, generators, spread))
        image = reduced(affine_image(lambda x: g(x, input), whole), num_generators)
        answer = as_interval(affine_image(readout, spread_as_generators(image)))
        if image.generators is None:  # the image is the same box wherever the state was
            image = AffineForm(image.center, jnp.zeros_like(generators), image.spread)
        sizes = jnp.sqrt(jnp.sum(deviation(image) ** 2))
        return Advanced(
            image.center,
            image.generators,
            image.spread,
            answer.lo[0],
            answer.hi[0],
            sizes,
        )

    return jax.vmap(one)(*map(jnp.asarray, (center, generators, spread, inputs)))


@compiled
def step_points(
    g: Callable,
    readout: Callable,
    points: Float[Array | np.ndarray, "B N"],
    inputs: Float[Array | np.ndarray, "B I"],
) -> tuple[Any, Any]:
    """States after one symbol each, and the readout of them, without error bounds."""
    states = jax.vmap(g)(jnp.asarray(points), jnp.asarray(inputs))
    return states, jax.vmap(readout)(states)[:, 0]


@compiled
def coordinates(
    center: Float[Array | np.ndarray, "B N"],
    generators: Float[Array | np.ndarray, "B K N"],
    spread: Float[Array | np.ndarray, "B N"],
    box_center: Float[Array | np.ndarray, "B N"],
    box_frame: Float[Array | np.ndarray, "B N N"],
) -> Any:
    """Upper bounds of `|frame (x - center)|` over B sets, each in a box of its own."""

    def one(center, generators, spread, box_center, box_frame):
        return _coordinates(AffineForm(center, generators, spread), box_center, box_frame)

    return jax.vmap(one)(*map(jnp.asarray, (center, generators, spread, box_center, box_frame)))


def _coordinates(form: AffineForm, center: Any, frame: Any) -> Any:
    generators = jnp.asarray(form.generators)
    shifted = rounded(form.center - center, generators, form.spread, UNIT_ROUNDOFF)
    error = sum_error(center.shape[0])
    multiply = lambda a, b: jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
    along = jnp.abs(multiply(frame, shifted.center))
    across = jnp.sum(jnp.abs(multiply(generators, frame.T)), 0)
    lengths = jnp.abs(shifted.center) + jnp.sum(jnp.abs(generators), 0)
    rest = multiply(jnp.abs(frame), shifted.spread + 2 * error * lengths)
    return (along + across + rest) * (1 + 4 * (sum_error(generators.shape[0]) + error)) + 1e-290
