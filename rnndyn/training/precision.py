"""Mixed precision: compute in half precision, keep the weights in full, scale the loss so that gradients survive."""

import dataclasses
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


@dataclasses.dataclass(frozen=True)
class MixedPrecision:
    r"""How `rnndyn.fit` computes in half precision, with `precision=`.

    Before every step the weights, the batch and the carry are rounded to `dtype`; gradients come back to the weights,
    which keep their own dtype, as does the optimiser. The loss is multiplied by a scale S before it is differentiated
    and the gradient divided by it after, so that gradients as small as 1/S of the smallest number of `dtype` do not
    vanish. Where the scaled gradient overflows, the step makes no update and S is halved; after `growth_every` steps
    in a row without overflow it is doubled (Micikevicius et al. 2018).

    bfloat16 has the range of float32 and needs no scale: `precision="bfloat16"` means `initial_scale=1` and
    `growth_every=None`.

    ??? cite "Reference"
        P. Micikevicius et al. (2018), "Mixed precision training", ICLR.
    """

    dtype: str = "float16"
    """"float16" or "bfloat16"."""
    initial_scale: float = 2.0**15
    """S at the first step."""
    growth_every: int | None = 2000
    """Steps without overflow after which S is doubled; `None` keeps S as it is, and an overflow is divergence."""

    def __post_init__(self) -> None:
        if self.dtype not in ("float16", "bfloat16"):
            raise ValueError(f"precision: expected 'float16' or 'bfloat16', got {self.dtype!r}.")
        if not (self.initial_scale >= 1 and np.isfinite(self.initial_scale)):
            raise ValueError(f"precision: expected an initial_scale of at least 1, got {self.initial_scale}.")
        if self.growth_every is not None and self.growth_every < 1:
            raise ValueError(f"precision: expected growth_every of at least 1 or None, got {self.growth_every}.")

    def round(self, tree: Any) -> Any:
        """`tree` with its floating-point arrays in half precision."""
        return jax.tree.map(lambda leaf: leaf.astype(self.dtype) if eqx.is_inexact_array(leaf) else leaf, tree)

    def start(self) -> "LossScale":
        """The scale at the first step."""
        return LossScale(jnp.asarray(self.initial_scale, jnp.float32), jnp.zeros((), jnp.int32))


class LossScale(NamedTuple):
    """The scale of the loss as it stands."""

    scale: Float[Array, "*E"]
    """S."""
    num_good: Int[Array, "*E"]
    """Steps in a row without overflow."""

    def after(self, is_finite: Array, growth_every: int | None) -> "LossScale":
        """The scale after a step whose gradient was finite or not."""
        if growth_every is None:
            return self
        num_good = jnp.where(is_finite, self.num_good + 1, 0)
        grows = num_good >= growth_every
        # Beyond this S itself would overflow in time.
        scale = jnp.where(grows, jnp.minimum(2 * self.scale, 2.0**60), self.scale)
        scale = jnp.where(is_finite, scale, jnp.maximum(self.scale / 2, 1))
        return LossScale(scale, jnp.where(grows, 0, num_good))


def as_precision(precision: Any) -> MixedPrecision | None:
    """`precision` as `fit` takes it: a name, the whole, or `None`.

    **Raises:** `ValueError` for another name.
    """
    if precision is None or isinstance(precision, MixedPrecision):
        return precision
    if precision == "bfloat16":
        return MixedPrecision("bfloat16", initial_scale=1.0, growth_every=None)
    if precision == "float16":
        return MixedPrecision()
    raise ValueError(f"precision: expected 'float16', 'bfloat16' or a MixedPrecision, got {precision!r}.")
