"""Networks of Haiku: the parameters that `init` gives."""

from collections.abc import Mapping, Sequence
from typing import Any

from rnndyn.interop._haiku_names import haiku_layers
from rnndyn.interop._layers import Choices, assemble, none_found
from rnndyn.interop._tensors import flattened, stored
from rnndyn.interop.network import ImportedNetwork


def from_haiku(
    params: Any,
    name: str | Sequence[str] | None = None,
    *,
    cell: str | None = None,
    activation: Any = None,
    readout: str | None = None,
    dtype: Any = None,
) -> ImportedNetwork:
    """The network in parameters of Haiku: `VanillaRNN`, `LSTM`, `GRU`, alone or in a `DeepRNN`.

    Haiku differs in four ways, all converted: an LSTM has its gates in the order i, g, f, o and adds 1 to the forget
    gate in its step; a GRU has the order z, r, n, its reset gate before the recurrent product, and an update gate the
    other way round, h' = (1 - z) h + z n; a vanilla network uses ReLU.

    **Arguments:**

    - `params`: what `transformed.init` gives: module names to parameters.
    - `name`: the core, where there are several; its last part is enough. A list, from the input to the output, is
        stacked, as `DeepRNN` does it.
    - `cell`: `"vanilla"`, `"lstm"` or `"gru"`; needed for a core with a name of its own, whose parameters do not tell.
    - `activation`: of a vanilla core that has another one than ReLU.
    - `readout`: the name of the linear readout, where several `Linear` fit.
    - `dtype`: of the weights; float64 when not given.

    **Returns:** an `ImportedNetwork`.

    **Raises:** `ValueError` in one line for convolutional cores; and as `load_network`.
    """
    if not isinstance(params, Mapping):
        raise ValueError(f"params: expected a mapping of module names to parameters, got a {type(params).__name__}.")
    tensors = stored(flattened(params, "/"))
    choices = Choices(cell=cell, activation=activation)
    layers = haiku_layers(tensors, choices)
    if not layers:
        raise none_found("params", tensors)
    return assemble(
        tensors,
        layers,
        name,
        choices=choices,
        where="the parameters",
        format="Haiku parameters",
        readout=readout,
        dtype=dtype,
    )
