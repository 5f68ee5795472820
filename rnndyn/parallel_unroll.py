"""Running a cell over a sequence on all steps at once."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, PyTree

from rnndyn.dynamics.parallel_trajectory import parallel_trajectory
from rnndyn.maps import as_driven_map
from rnndyn.networks.adapters import as_cell, check_transition
from rnndyn.networks.cells.checks import check_weights
from rnndyn.networks.cells.dropout import without_dropout


def unroll_parallel(
    cell: Any,
    inputs: Any,
    state: Any = None,
    *,
    method: str = "newton",
    tol: float | None = None,
    max_steps: int = 100,
    if_chaotic: str = "sequential",
) -> PyTree[Array]:
    r"""The states of `unroll`, all steps at once: Newton's method on the sequence, with an associative scan over time.

    $$r_t = \mathrm{cell}(s_{t-1}, u_t) - s_t = 0, \qquad \delta_t = J_t\,\delta_{t-1} + r_t .$$

    **Arguments:**

    - `cell`, `inputs`, `state`: as in `unroll`; without noise or dropout.
    - `method`, `tol`, `max_steps`, `if_chaotic`: as in `parallel_trajectory`, which tells how it works and what it
        costs. It also returns the evidence, and works on the flat state:
        `rd.parallel_trajectory(rd.as_driven_map(cell), x0, len(inputs), inputs)`.

    **Returns:** the states, of the structure of `state`, with leaves (T, ...): those of `unroll` to `tol`. Where the
    network is chaotic under these inputs, or the method does not converge, they come from iterating the cell, with a
    warning outside of `jit`.

    **Raises:** `ValueError` as `unroll` and `parallel_trajectory`.

    `jit`, `vmap` and derivatives of any order work, of weights, inputs and state alike.

    ??? cite "Reference"
        Y. H. Lim, Q. Zhu, J. Selfridge & M. F. Kasim (2024), "Parallelizing non-linear sequential models over the
        sequence length", ICLR.
    """
    check_weights(cell)
    cell = without_dropout(as_cell(cell, state_like=state))
    shape, width = jnp.shape(inputs), cell.input_size
    if len(shape) == 0 or shape[0] == 0 or (width is not None and (len(shape) != 2 or shape[1] != width)):
        expected = "I" if width is None else width
        raise ValueError(f"inputs: expected one sequence of shape (T, {expected}) with T >= 1, got {shape}.")
    inputs = jnp.asarray(inputs)
    state = check_transition(cell, cell.initial_state() if state is None else state, inputs[0])
    g = as_driven_map(cell, state_like=state)
    found = parallel_trajectory(
        g,
        g.flatten(state),
        shape[0],
        inputs,
        method=method,
        tol=tol,
        max_steps=max_steps,
        if_chaotic=if_chaotic,
    )
    return g.unflatten(found.states)
