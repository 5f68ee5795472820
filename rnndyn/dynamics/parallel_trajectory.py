"""Running a map on all steps at once."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from rnndyn._validation import check_at_least, check_state
from rnndyn.dynamics.numerics.newton_in_time import newton_settings, solve_checked
from rnndyn.dynamics.numerics.verdicts import ParallelVerdict
from rnndyn.dynamics.trajectory import let_in_with_inputs
from rnndyn.results import Judged


def parallel_trajectory(
    f: Callable[..., Array],
    x0: ArrayLike,
    num_steps: int,
    inputs: ArrayLike | None = None,
    *,
    method: str = "newton",
    tol: float | None = None,
    max_steps: int = 100,
    if_chaotic: str = "sequential",
    guess: ArrayLike | None = None,
) -> "ParallelTrajectory":
    r"""The states of `trajectory`, all steps at once, by Newton's method on the whole sequence.

    The trajectory is the root of $r_t = F(x_{t-1}, u_t) - x_t$, t = 1 ... T. An iteration takes all Jacobians
    $J_t = DF(x_{t-1}, u_t)$ at once, and solves for the increments

    $$\delta_t = J_t\,\delta_{t-1} + r_t, \qquad \delta_0 = 0$$

    with an associative scan, about 2 log2 T rounds deep. After k iterations the first k states are exact whatever the
    rest, so that T iterations always suffice; few do where the map forgets its past.

    **Arguments:**

    - `f`, `x0`, `num_steps`, `inputs`: as in `trajectory`.
    - `method`: `"newton"` (DEER); `"diagonal"`, which keeps only the diagonals of the Jacobians in the scan: memory
        O(T N) instead of O(T N²), an iteration costs less, and more of them are needed; or `"damped"` (ELK), steps of
        Levenberg and Marquardt by a Kalman smoother in parallel, on which $\sum_t |r_t|^2$ never grows, where plain
        steps overshoot.
    - `tol`: the largest entry of the residual, relative to the largest state or to 1; 256 units of rounding by default.
    - `max_steps`: iterations.
    - `if_chaotic`: what to do where the largest exponent over the first 256 steps, of which the first quarter is left
        out, is above 0 by more than two standard errors. Small changes then grow over the sequence as $e^{\lambda_1 T}$
        and so does the condition of the problem; about T iterations are needed, each dearer than all T steps.
        `"sequential"`: iterate step by step; `"raise"`; `"continue"`: try all the same.
    - `guess`: states (T, N) to start from, those of a network before an update of its weights for one; `x0` at every
        step by default.

    **Returns:** a `ParallelTrajectory`. Where Newton's method does not end below `tol`, its states were iterated step
    by step, and its verdict says so; outside of `jit` there is a warning as well.

    **Raises:** `ValueError` for a bad state or inputs, an unknown `method` or `if_chaotic`, a guess of another shape;
    with `if_chaotic="raise"`, where the orbit is chaotic.

    Pure: `jit`, `vmap`, `jvp` and `grad` work, of any order: by the implicit function theorem a derivative is one such
    linear recursion more, backwards in time for a gradient, and no iteration is differentiated. (Under `vmap` the
    states are iterated in any case, since a batch takes both branches.) Work is O(T N³) an iteration for `"newton"`,
    against O(T N²) for iterating: it pays where many steps at once cost little more than one, on an accelerator, with
    few units and long sequences.

    ??? cite "Reference"
        Y. H. Lim, Q. Zhu, J. Selfridge & M. F. Kasim (2024), "Parallelizing non-linear sequential models over the
        sequence length", ICLR; X. Gonzalez, A. Warrington, J. T. H. Smith & S. W. Linderman (2024), "Towards scalable
        and stable parallelization of nonlinear RNNs", NeurIPS; X. Gonzalez, L. Kozachkov, D. M. Zoltowski, K. L.
        Clarkson & S. W. Linderman (2025), "Predictability enables parallelization of nonlinear state space models".
    """
    check_state("x0", x0)
    x0 = jnp.asarray(x0)
    check_at_least("num_steps", num_steps, 1)
    settings = newton_settings(x0.dtype, method, tol, max_steps, if_chaotic)
    program, rows = let_in_with_inputs(f, x0, inputs, num_steps)
    if guess is None:
        guess = jnp.broadcast_to(x0, (num_steps, x0.size))
    elif jnp.shape(guess) != (num_steps, x0.size):
        raise ValueError(f"guess: expected states of shape ({num_steps}, {x0.size}), got {jnp.shape(guess)}.")
    found = solve_checked(program, x0, rows, jnp.asarray(guess, x0.dtype), settings)
    verdict = ParallelVerdict.where(found.is_parallel, ParallelVerdict.converged, ParallelVerdict.out_of_steps)
    # Chaotic and out of steps is what `if_chaotic="continue"` may end with.
    refused = ~found.is_parallel & found.is_chaotic & (found.num_iterations == 0)
    verdict = ParallelVerdict.where(refused, ParallelVerdict.chaotic, verdict)
    return ParallelTrajectory(found.states, found.num_iterations, found.residual, found.exponent, found.stderr, verdict)


class ParallelTrajectory(Judged):
    """A trajectory, and how it was found.

    Returned by `parallel_trajectory`. Newton's method solves $r_t = F(x_{t-1}, u_t) - x_t = 0$ for all t at once, each
    iteration by an associative scan. Where it does not pay or does not converge the states are those of plain
    iteration, and `result` says why.
    """

    states: Float[Array, "T N"]
    """Row t has read $u_t$, as in `trajectory`."""
    num_iterations: Int[Array, ""]
    """Iterations of Newton's method; 0 where it was not tried."""
    residual: Float[Array, ""]
    """The largest $|r_t|$ that they ended with, relative to the largest state or to 1."""
    exponent: Float[Array, ""]
    """The largest Lyapunov exponent over the first steps, in nats per step."""
    exponent_stderr: Float[Array, ""]
    """Its standard error; NaN where the steps are too few for one."""
    result: ParallelVerdict
    """The verdict: whether the states come from Newton's method, or why not."""

    def table(self) -> str:
        num_steps, num_units = jnp.shape(self.states)[-2:]
        return (
            f"ParallelTrajectory: {num_steps} steps of {num_units} units, {self.message}\n"
            f"  iterations {int(self.num_iterations)}, residual {float(self.residual):.2g}, exponent over the first "
            f"steps {float(self.exponent):.3g} +- {float(self.exponent_stderr):.2g}"
        )
