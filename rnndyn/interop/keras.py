"""Networks of Keras: a model, or a layer."""

from collections.abc import Iterator, Sequence
from typing import Any

from rnndyn.interop._cells import OWN_STEP
from rnndyn.interop._keras_names import keras_layers
from rnndyn.interop._layers import Choices, FoundLayer, assemble, none_found
from rnndyn.interop._linear import Linear
from rnndyn.interop._tensors import StoredTensor, stored
from rnndyn.interop.network import ImportedNetwork

_CELLS = ("SimpleRNNCell", "LSTMCell", "GRUCell")
_LAYERS = ("SimpleRNN", "LSTM", "GRU")


def from_keras(
    model: Any,
    name: str | Sequence[str] | None = None,
    *,
    cell: str | None = None,
    activation: Any = None,
    reset: str | None = None,
    readout: str | None = None,
    dtype: Any = None,
) -> ImportedNetwork:
    """The network in a Keras model or layer: `SimpleRNN`, `LSTM`, `GRU`, `RNN` of their cells, `Bidirectional`.

    Kernels lie (in, out) and are transposed. A GRU of Keras has its gates in the order z, r, n; with
    `reset_after=True` it has two biases, of which those of z and r add up. Activations and `reset_after` are read
    from the configuration.

    **Arguments:**

    - `model`: a `keras.Model` or a layer, built; or a mapping of `variable.path` to arrays.
    - `name`: the recurrent layer, where there are several. A list, from the input to the output, is stacked.
    - `cell`, `activation`, `reset`: as in `load_network`, for a mapping, which does not tell them.
    - `readout`: the name of the linear readout, where several `Dense` fit.
    - `dtype`: of the weights; float64 when not given.

    **Returns:** an `ImportedNetwork`.

    **Raises:** `ValueError` in one line for other activations than tanh and sigmoid in a gated layer (old files may
    have `hard_sigmoid`), convolutional and custom cells; and as `load_network`.
    """
    choices = Choices(cell=cell, activation=activation, reset=reset)
    tensors, layers = keras_contents(model, choices)
    if not layers:
        raise none_found("model", tensors)
    is_model = hasattr(model, "get_config")
    return assemble(
        tensors,
        layers,
        name,
        choices=choices,
        where=f"the {type(model).__name__}",
        format=f"Keras {type(model).__name__}" if is_model else "mapping of Keras variables",
        readout=readout,
        dtype=dtype,
        linears=list(_linears(model, tensors)) if is_model else None,
        embeddings=list(_embeddings(model, tensors)) if is_model else None,
    )


def keras_contents(model: Any, choices: Choices) -> tuple[dict[str, StoredTensor], list[FoundLayer]]:
    """The tensors of a model and its recurrent layers."""
    if not hasattr(model, "get_config"):
        if not hasattr(model, "items"):
            raise ValueError(f"model: expected a Keras model or layer, got a {type(model).__name__}.")
        tensors = stored(model)
        return tensors, keras_layers(tensors, choices)
    if not model.built:
        raise ValueError(
            f"model: the {type(model).__name__} {model.name} has no weights yet. Call it on an input first."
        )
    arrays: dict[str, Any] = {}
    configs: dict[str, dict[str, Any]] = {}
    refused = []
    for path, layer in _walk(model):
        kind = type(layer).__name__
        for variable in layer.variables if not _children(layer) else ():
            arrays[f"{path}/{variable.name}"] = variable
        if kind in _CELLS and _is_keras(layer):
            configs[path] = layer.get_config()
        elif (kind in _CELLS or hasattr(layer, "state_size")) and not _is_stack_or_layer(layer):
            home = type(layer).__module__.split(".")[0]
            refused.append((path, f"is a {kind} of {home}, which is no cell of Keras. {OWN_STEP}"))
    tensors = stored({name: variable for name, variable in arrays.items() if "seed_generator" not in name})
    layers = []
    for layer in keras_layers(tensors, choices, configs):
        # Weights with the usual names in a cell of somebody else: the name of the path tells which.
        alien = [refusal for path, refusal in refused if any(tensor.startswith(path + "/") for tensor in layer.tensors)]
        if alien:
            layer = FoundLayer(layer.name, "Keras", "custom cell", used=layer.tensors, refusal=alien[0])
        layers.append(layer)
    known = [tensor for layer in layers for tensor in layer.tensors]
    for path, refusal in refused:
        own = tuple(tensor for tensor in tensors if tensor.startswith(path + "/"))
        if not any(tensor in known for tensor in own):
            layers.append(FoundLayer(path, "Keras", "custom cell", used=own, refusal=refusal))
    return tensors, layers


def _walk(layer: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every layer inside of a layer, with a path of names; those of a recurrent layer are `name/cell`."""
    own = path or ("" if type(layer).__name__ in ("Sequential", "Functional", "Model") else layer.name)
    if not path and _children(layer) and not hasattr(layer, "cell") and not hasattr(layer, "forward_layer"):
        own = ""
    yield own, layer
    for name, child in _children(layer):
        yield from _walk(child, f"{own}/{name}" if own else name)


def _children(layer: Any) -> list[tuple[str, Any]]:
    if hasattr(layer, "forward_layer"):
        return [("forward_layer", layer.forward_layer), ("backward_layer", layer.backward_layer)]
    if hasattr(layer, "cells") and hasattr(layer, "state_size"):
        return [(f"{index}/cell", cell) for index, cell in enumerate(layer.cells)]
    if hasattr(layer, "cell"):
        # The cells of a stack are layers of their own.
        return _children(layer.cell) if hasattr(layer.cell, "cells") else [("cell", layer.cell)]
    return [(child.name, child) for child in layer._flatten_layers(include_self=False, recursive=False)]


def _is_keras(layer: Any) -> bool:
    return type(layer).__module__.split(".")[0] == "keras"


def _is_stack_or_layer(layer: Any) -> bool:
    return _is_keras(layer) and type(layer).__name__ in (*_LAYERS, "RNN", "StackedRNNCells", "Bidirectional")


def _linears(model: Any, tensors: dict[str, StoredTensor]) -> Iterator[Linear]:
    for path, layer in _walk(model):
        weight = tensors.get(f"{path}/kernel")
        if type(layer).__name__ == "Dense" and _is_keras(layer) and weight is not None:
            activation = layer.get_config().get("activation") or "linear"
            yield Linear(path, weight, tensors.get(f"{path}/bias"), True, str(activation))


def _embeddings(model: Any, tensors: dict[str, StoredTensor]) -> Iterator[Linear]:
    for path, layer in _walk(model):
        weight = tensors.get(f"{path}/embeddings")
        if type(layer).__name__ == "Embedding" and _is_keras(layer) and weight is not None:
            yield Linear(path, weight, None, False)
