"""Checks that every measure of growth along a trajectory shares."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from rnndyn._arrays import as_array
from rnndyn._programs import Program, with_exact_slopes
from rnndyn._validation import check_at_least, check_state
from rnndyn.dynamics.trajectory import let_in_with_inputs


def check_growth_arguments(
    f: Callable, x0: Any, num_steps: int, num_transient: int, inputs: Any, num_exponents: int | None
) -> tuple[Program, Array, Array | np.ndarray | None, int]:
    """The map as a program, state, inputs and number of exponents; a `ValueError` where they do not fit together.

    The derivatives of the program keep the slopes of saturated units.
    """
    check_state("x0", x0)
    check_growth_settings(num_steps, num_transient)
    num_units = jnp.shape(x0)[0]
    if num_exponents is None:
        num_exponents = num_units
    if not 1 <= num_exponents <= num_units:
        raise ValueError(
            f"num_exponents: a state of {num_units} entries has 1 to {num_units} exponents, got {num_exponents}."
        )
    x0 = as_array(x0)
    program, rows = let_in_with_inputs(f, x0, inputs, num_transient + num_steps)
    return with_exact_slopes(program), x0, rows, num_exponents


def check_growth_settings(num_steps: int, num_transient: int, qr_every: int | None = None) -> None:
    """Raise unless the numbers of steps are in range, and at least one interval fits into the window."""
    check_at_least("num_steps", num_steps, 1)
    check_at_least("num_transient", num_transient, 0)
    if qr_every is not None:
        check_at_least("qr_every", qr_every, 1)
        if qr_every > num_steps:
            raise ValueError(
                f"qr_every: {qr_every} steps do not fit into num_steps={num_steps}. Raise num_steps or lower qr_every."
            )


def check_dt(dt: Any) -> None:
    """Raise unless the time per step is positive."""
    if not isinstance(dt, Tracer) and not dt > 0:
        raise ValueError(f"dt: expected a positive time per step, got {dt}.")
