"""The gradient of a loss that is carried back over a window only, and what is missing in it."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rnndyn._programs import compiled
from rnndyn.results import Result
from rnndyn.training._norm import scaled_norm


class TruncatedGradient(Result):
    """The gradient of the cell's weights over a window, and what is missing. (Truncation spares the readout.)

    Part of what `bptt` returns for a `window`; shapes are those of the weights, keys their paths.

    Reference: R. J. Williams & J. Peng (1990), *An efficient gradient-based algorithm for on-line training of recurrent
    network trajectories*.
    """

    window: int
    """Steps that a loss is carried back."""
    stride: int
    """Steps between two backward passes."""
    gradient: dict[str, Float[Array, "..."]]
    """The sum of the terms that reach back no further than the window."""
    missing: dict[str, Float[Array, "..."]]
    """The full gradient minus that."""
    relative_errors: dict[str, Float[Array, ""]]
    """|missing| / |full| of each weight (NaN where the full gradient is 0)."""
    cosines: dict[str, Float[Array, ""]]
    """The cosine of the angle between the two gradients of each weight."""
    relative_error: Float[Array, ""]
    """|missing| / |full| of all weights together."""
    cosine: Float[Array, ""]
    """The cosine for all weights together; below 0 a step along the truncated gradient raises the loss."""

    def table(self) -> str:
        return (
            f"  truncated to {int(self.window)} steps (stride {int(self.stride)}): |missing| / |full| = "
            f"{float(self.relative_error):.4g}, cosine {float(self.cosine):.4f}"
        )


@compiled
def truncate(g, states, inputs, sources, gradient, window, stride):
    truncated = _over_windows(g, states, inputs, sources, window, stride)
    full = {name: gradient[name] for name in truncated}
    missing = {name: full[name] - truncated[name] for name in full}
    together = lambda tree: jnp.concatenate([jnp.ravel(leaf) for leaf in tree.values()])
    size = lambda a: scaled_norm(a).value
    unit = lambda a: a / size(a)
    cosine = lambda a, b: jnp.vdot(unit(a), unit(b))
    return TruncatedGradient(
        window=window,
        stride=stride,
        gradient=truncated,
        missing=missing,
        relative_errors={name: size(missing[name]) / size(full[name]) for name in full},
        cosines={name: cosine(full[name], truncated[name]) for name in full},
        relative_error=size(together(missing)) / size(together(full)),
        cosine=cosine(together(full), together(truncated)),
    )


def _over_windows(g, states, inputs, sources, window, stride):
    parameters, rest = eqx.partition(g, eqx.is_inexact_array)
    num_steps = len(sources)

    def segment(end):
        """The losses of the last `stride` steps before `end`, carried back over `window` of them."""
        steps = end - window + jnp.arange(window)
        exists = (steps >= 0) & (steps < num_steps)
        rows = jnp.clip(steps, 0, num_steps - 1)
        kicks = jnp.where((exists & (steps >= end - stride))[:, None], sources[rows], 0)

        def back(carry, xs):
            adjoint, gradient = carry
            x, u, kick, exists = xs
            adjoint = jnp.where(exists, adjoint + kick, 0)
            _, pull = jax.vjp(lambda p, y: eqx.combine(p, rest)(y, u), parameters, x)
            share, adjoint = pull(adjoint)
            return (adjoint, jax.tree.map(jnp.add, gradient, share)), None

        start = (jnp.zeros_like(sources[0]), jax.tree.map(jnp.zeros_like, parameters))
        xs = (states[rows], jax.tree.map(lambda leaf: leaf[rows], inputs), kicks, exists)
        return jax.lax.scan(back, start, xs, reverse=True)[0][1]

    ends = stride * (1 + jnp.arange(-(-num_steps // stride)))
    return named("", jax.tree.map(lambda leaf: leaf.sum(axis=0), jax.vmap(segment)(ends)))


def check_window(window: int | None, stride: int | None, num_steps: int) -> tuple[int | None, int | None]:
    if window is None:
        if stride is not None:
            raise ValueError("stride: is that of a truncated gradient; give its window too.")
        return None, None
    if not 1 <= window <= num_steps:
        raise ValueError(
            f"window: expected 1 to {num_steps} steps, the length of the sequence, got {window}. A window of "
            f"{num_steps} is the full gradient."
        )
    if stride is None:
        return window, window
    if not 1 <= stride <= window:
        raise ValueError(
            f"stride: expected 1 to {window} steps, the window, got {stride}. A longer one would drop losses."
        )
    return window, stride


def named(prefix, tree):
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {(prefix + jax.tree_util.keystr(path)).lstrip("."): leaf for path, leaf in leaves}
