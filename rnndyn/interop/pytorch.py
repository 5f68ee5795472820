"""Networks of PyTorch: a module, or its state dict."""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rnndyn.interop._cells import OWN_STEP
from rnndyn.interop._layers import Choices, FoundLayer, assemble, none_found
from rnndyn.interop._linear import Linear
from rnndyn.interop._pytorch_names import pytorch_layers
from rnndyn.interop._tensors import flattened, stored
from rnndyn.interop.network import ImportedNetwork

_RECURRENT = ("RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell")


def from_torch(
    module_or_state_dict: Any,
    name: str | Sequence[str] | None = None,
    *,
    cell: str | None = None,
    activation: Any = None,
    readout: str | None = None,
    dtype: Any = None,
) -> ImportedNetwork:
    """The network in a PyTorch module or state dict: `RNN`, `LSTM` (with projection), `GRU` and their cells.

    Rows are those of PyTorch: i, f, g, o of an LSTM, r, z, n of a GRU. `bias_ih` and `bias_hh` add up, except for n of
    a GRU, where `bias_hh` stands inside of the reset gate and becomes `bias_n`. Layers are stacked into one cell; a
    bidirectional layer gives one cell for each direction. Dropout between layers acts in training only and is left out.

    **Arguments:**

    - `module_or_state_dict`: a `torch.nn.Module`, or what its `state_dict()` gives (tensors or NumPy arrays).
    - `name`: the recurrent layer, where there are several; its last part is enough. A list is stacked.
    - `cell`: `"vanilla"`, `"lstm"` or `"gru"`, to check what is found.
    - `activation`: of a vanilla network, `"tanh"` or `"relu"`. A module tells it; a state dict does not, and tanh is
        assumed, which `.source.assumed` then says.
    - `readout`: the name of the linear readout, where several `Linear` fit.
    - `dtype`: of the weights; float64 when not given, which holds float32 and the sums of biases exactly.

    **Returns:** an `ImportedNetwork`: `.cell` or `.cells`, the linear `.readout` and the `.embedding` where there are.

    **Raises:** `ValueError` in one line for what cannot be represented exactly: a subclass with a step of its own,
    weight norm and other parametrisations, quantised layers; and as `load_network`.
    """
    module, choices = module_or_state_dict, Choices(cell=cell, activation=activation)
    if isinstance(module, Mapping):
        arrays = flattened(module, ".")
        tensors = stored(arrays)
        layers = pytorch_layers(tensors, choices)
        if not layers:
            raise none_found("module_or_state_dict", tensors)
        return assemble(
            tensors,
            layers,
            name,
            choices=choices,
            where="the state dict",
            format="state dict",
            readout=readout,
            dtype=dtype,
        )
    if not hasattr(module, "named_modules") or not hasattr(module, "state_dict"):
        raise ValueError(
            f"module_or_state_dict: expected a torch.nn.Module or a state dict, got a {type(module).__name__}."
        )
    arrays = {key: value for key, value in module.state_dict().items() if hasattr(value, "shape")}
    # A quantised layer keeps packed objects in place of tensors: they have to be seen to be refused.
    tensors = stored(arrays)
    layers = _module_layers(module, tensors, activation)
    if not layers and pytorch_layers(tensors, choices):
        raise ValueError(
            f"module_or_state_dict: the {type(module).__name__} has weights with PyTorch's names and no layer of "
            f"torch.nn. Pass its state_dict() if its step is that of torch.nn (TorchScript); else: {OWN_STEP}"
        )
    if not layers:
        raise none_found("module_or_state_dict", tensors)
    parts = dict(module.named_modules())
    return assemble(
        tensors,
        layers,
        name,
        choices=choices,
        where=f"the {type(module).__name__}",
        format=f"module {type(module).__name__}",
        readout=readout,
        dtype=dtype,
        linears=[found for key, part in parts.items() if (found := _linear(key, part, tensors)) is not None],
        embeddings=[
            Linear(key or "embedding", tensors[_join(key, "weight")], None, False)
            for key, part in parts.items()
            if _is_torch(part, "Embedding") and part.max_norm is None and _join(key, "weight") in tensors
        ],
    )


def _join(prefix: str, leaf: str) -> str:
    return f"{prefix}.{leaf}" if prefix else leaf


def _is_torch(module: Any, *names: str) -> bool:
    """Whether `module` is exactly one of these classes of `torch.nn`: a subclass has a step of its own."""
    nn = getattr(sys.modules.get("torch"), "nn", None)
    return nn is not None and any(type(module) is getattr(nn, name) for name in names)


def _linear(name: str, module: Any, tensors: Mapping[str, Any]) -> Linear | None:
    weight = tensors.get(_join(name, "weight"))
    if not _is_torch(module, "Linear") or weight is None:
        return None
    return Linear(name or "linear", weight, tensors.get(_join(name, "bias")), False)


def _module_layers(module: Any, tensors: Mapping[str, Any], activation: Any) -> list[FoundLayer]:
    layers = []
    for name, part in module.named_modules():
        kind = type(part).__name__
        home = type(part).__module__
        own = {key: tensor for key, tensor in tensors.items() if key.startswith(f"{name}." if name else "")}
        if "quantized" in home and kind in _RECURRENT:
            refusal = f"a quantised {kind}. Import the model as it was before torch.ao.quantization"
            layers.append(FoundLayer(name or kind.lower(), "PyTorch", kind, used=tuple(own), refusal=refusal + "."))
            continue
        bases = {base.__name__ for base in type(part).__mro__ if base.__module__ == "torch.nn.modules.rnn"}
        if not bases.intersection(_RECURRENT):
            continue
        wrapped = any("parametrizations" in key or key.endswith(("_g", "_v", "_orig", "_mask")) for key in own)
        if not _is_torch(part, *_RECURRENT) and not wrapped:
            refusal = (
                f"is a {kind}, a subclass of torch.nn's: its step may be its own. Pass its state_dict() if it is not; "
                f"else: {OWN_STEP}"
            )
            layers.append(FoundLayer(name or kind.lower(), "PyTorch", kind, used=tuple(own), refusal=refusal))
            continue
        told = getattr(part, "nonlinearity", None)
        if told is not None and activation not in (None, told):
            raise ValueError(f"activation: the module has {told!r}, got {activation!r}.")
        found = pytorch_layers(own, Choices(activation=told if told is not None else activation))
        layers += [dataclasses.replace(layer, name=name or layer.name) for layer in found]
    return layers
