"""Several programs of the same equations as one, whose constants have a leading axis."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnndyn._programs.program import Program


def stacked(programs: Sequence[Program], size: int) -> Program | None:
    """Programs as one family, filled up to `size` with the first; `None` where their equations differ.

    A family is no function: `member` takes a program out of it, inside of `jit` as well.
    """
    first = programs[0]
    columns = list(zip(*(program.constants for program in programs)))
    extended = any(jnp.issubdtype(jnp.result_type(c), jax.dtypes.extended) for c in first.constants)
    if extended or any(program.code != first.code for program in programs):
        return None
    filled = [[*column, *[column[0]] * (size - len(column))] for column in columns]
    # Stacked on the host: on a device that is a program for every number and shape.
    arrays = [np.stack([np.asarray(c) for c in column]) for column in filled]
    return Program(tuple(jnp.asarray(array, array.dtype) for array in arrays), first.code)


def member(family: Program, i: Any) -> Program:
    """Program number i, which may be traced."""
    return Program(tuple(constant[i] for constant in family.constants), family.code)
