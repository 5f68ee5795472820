"""A network with an encoder: a learned way from what is seen back to the state."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from rnndyn._validation import check_at_least


def encoded(
    model: Any, *, num_outputs: int, num_lags: int = 1, width: int = 32, depth: int = 1, key: PRNGKeyArray
) -> "Encoded":
    r"""A network together with an encoder, which learns the state that belongs to the last samples.

    $$\hat x_t = E(y_t, y_{t-1}, \dots, y_{t-k+1}), \qquad x_{t+1} = F((1 - \alpha) x_t + \alpha \hat x_t), \qquad
    y_t = \mathrm{readout}(x_t)$$

    It is both what a run starts from (a learned initial state) and what it is drawn towards (a learned inverse of the
    readout), so the readout need not be linear and the state may have more variables than are seen.

    **Arguments:**

    - `model`: an `rnndyn.RNN` whose state is one vector.
    - `num_outputs`: O, the variables of a sample.
    - `num_lags`: k, the samples that the encoder reads. What is not seen at one time is seen over several (Takens).
    - `width`, `depth`: of the hidden layers of the encoder, an `equinox.nn.MLP` with tanh.
    - `key`: fixes its first weights.

    **Returns:** an `Encoded`, which `forced_loss` trains.

    **Raises:** `ValueError` for counts out of range, or a state that is not one vector. An encoder of another kind:
    `Encoded(model, encoder, num_lags)`.

    ??? cite "Reference"
        M. Brenner, F. Hess, G. Koppe & D. Durstewitz (2024), "Integrating multimodal data for joint generative modeling
        of complex dynamics", ICML, of forcing by what an encoder says.
    """
    for name, value, least in (("num_outputs", num_outputs, 1), ("num_lags", num_lags, 1), ("width", width, 1)):
        check_at_least(name, value, least)
    check_at_least("depth", depth, 0)
    state = model.start()
    if jax.tree.structure(state) != jax.tree.structure(0) or jnp.ndim(state) != 1:
        raise ValueError(f"model: expected its state to be one vector, got {jax.tree.map(jnp.shape, state)}.")
    encoder = eqx.nn.MLP(num_lags * num_outputs, len(state), width, depth, activation=jnp.tanh, key=key)
    return Encoded(model, encoder, num_lags)


class Encoded(eqx.Module):
    """A network and its encoder; made by `encoded`.

    - `model`: an `rnndyn.RNN`.
    - `encoder`: from the last samples, the newest first, (num_lags O,), to the state (N,).
    - `num_lags`: how many samples it reads.
    """

    model: Any
    encoder: Callable[[Array], Array]
    num_lags: int = eqx.field(static=True)

    def encode(self, samples: Float[Array | np.ndarray, "k O"]) -> Float[Array, " N"]:
        """The state that belongs to the last of `num_lags` samples in the order of time.

        **Raises:** `ValueError` for another number of them.
        """
        samples = jnp.asarray(samples)
        if samples.ndim != 2 or len(samples) != self.num_lags:
            raise ValueError(f"samples: expected {self.num_lags} of them, ({self.num_lags}, O), got {samples.shape}.")
        return self.encoder(samples[::-1].ravel())

    def encode_all(self, samples: Float[Array | np.ndarray, "T O"]) -> Float[Array, "S N"]:
        """The states that belong to samples (T, O), from the first on before which there are enough of them."""
        number = len(samples) - self.num_lags + 1
        rows = jnp.concatenate([samples[self.num_lags - 1 - lag :][:number] for lag in range(self.num_lags)], axis=1)
        return jax.vmap(self.encoder)(rows)
