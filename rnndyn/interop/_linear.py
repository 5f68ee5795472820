"""Linear readouts and embeddings beside a recurrent layer, recognised by name and shape."""

import dataclasses
import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from rnndyn.interop._tensors import StoredTensor, Tensors

# (name of the weight, name of the bias, whether the weight is stored (in, out))
_FORMS = (("weight", "bias", False), ("kernel", "bias", True), ("w", "b", True))
_MATRICES = ("W_out", "Wout", "w_out", "weight_out", "W_readout")
_MATRIX_BIASES = ("b_out", "bout", "bias_out", "b_readout")
_LAST = re.compile(r"^(?P<prefix>.*[./])?(?P<leaf>[^./]+)$")


@dataclasses.dataclass(frozen=True)
class Linear:
    """A linear layer: weight, bias, and whether the weight lies transposed (in, out)."""

    name: str
    weight: StoredTensor
    bias: StoredTensor | None
    transposed: bool
    activation: str = "linear"
    """A nonlinearity that follows, where the source tells it."""

    @property
    def input_size(self) -> int:
        """Entries of its input."""
        return self.weight.shape[0 if self.transposed else 1]

    @property
    def output_size(self) -> int:
        """Entries of its output."""
        return self.weight.shape[1 if self.transposed else 0]

    @property
    def used(self) -> tuple[str, ...]:
        """Its tensors."""
        return (self.weight.name,) if self.bias is None else (self.weight.name, self.bias.name)

    def arrays(self) -> tuple[np.ndarray, np.ndarray | None]:
        """The weight (out, in) and the bias."""
        weight = self.weight.numbers()
        return weight.T if self.transposed else weight, None if self.bias is None else self.bias.numbers()


def find_readout(
    tensors: Tensors, taken: set[str], layer: Any, wanted: str | None, linears: Iterable[Linear] | None
) -> tuple[Linear | None, str]:
    """The linear readout of a layer, and what has to be said of it.

    **Raises:** `ValueError` when `wanted` names no linear layer that reads the output.
    """
    candidates = list(_linears(tensors, taken) if linears is None else linears)
    fitting = [found for found in candidates if found.input_size == layer.output_size]
    if wanted is not None:
        named = [found for found in fitting if found.name == wanted or wanted in found.used]
        if len(named) != 1:
            names = ", ".join(found.name for found in fitting) or "none"
            raise ValueError(
                f"readout: expected a linear layer that reads {layer.output_size} entries ({names}), got {wanted!r}."
            )
        left_out = f"the {named[0].activation} after the readout {wanted} is left out"
        return named[0], "" if named[0].activation == "linear" else left_out
    own = layer.extras.get("readout")
    if own is not None:
        return own, ""
    if len(fitting) == 1:
        (found,) = fitting
        if found.activation != "linear":
            return None, f"no readout taken: {found.name} is followed by {found.activation}; take it with readout="
        # What a hidden layer puts out another one reads: then this is no readout but the first layer of a decoder.
        above = [other.name for other in candidates if other is not found and other.input_size == found.output_size]
        if above:
            return None, (
                f"no readout taken: {above[0]} may read what {found.name} puts out, which then is none; choose with "
                "readout="
            )
        return found, f"the linear layer {found.name} is the readout: the only one that fits the output"
    if fitting:
        names = ", ".join(found.name for found in fitting)
        return None, f"no readout taken: several linear layers fit the output ({names}); choose with readout="
    return None, ""


def find_embedding(
    tensors: Tensors, taken: set[str], layer: Any, embeddings: Iterable[Linear] | None
) -> tuple[Linear | None, str]:
    """The embedding that a layer reads, and what has to be said of it."""
    candidates = list(_embeddings(tensors, taken) if embeddings is None else embeddings)
    fitting = [found for found in candidates if found.weight.shape[1] == layer.input_size]
    if len(fitting) == 1:
        return fitting[0], ""
    if fitting:
        return None, f"no embedding taken: several fit the input ({', '.join(found.name for found in fitting)})"
    return None, ""


def matrix_readout(tensors: Tensors, prefix: str, size: int) -> Linear | None:
    """The readout `W_out`, `b_out` of a network of plain matrices."""
    for name in _MATRICES:
        weight = tensors.get(prefix + name)
        if weight is not None and len(weight.shape) == 2 and weight.shape[1] == size:
            biases = (tensors.get(prefix + bias) for bias in _MATRIX_BIASES)
            bias = next((b for b in biases if b is not None and b.shape == weight.shape[:1]), None)
            return Linear(prefix + name, weight, bias, False)
    return None


def _linears(tensors: Tensors, taken: set[str]) -> Iterable[Linear]:
    for name, tensor in tensors.items():
        match = _LAST.match(name)
        if match is None or name in taken or len(tensor.shape) != 2 or "emb" in name.lower():
            continue
        prefix, leaf = match["prefix"] or "", match["leaf"]
        for weight, bias, transposed in _FORMS:
            if leaf == weight:
                beside = tensors.get(prefix + bias)
                outputs = tensor.shape[1 if transposed else 0]
                if beside is not None and (beside.shape != (outputs,) or beside.name in taken):
                    continue
                yield Linear(prefix.rstrip("./") or leaf, tensor, beside, transposed)
        if leaf in _MATRICES:
            found = matrix_readout({k: v for k, v in tensors.items() if k not in taken}, prefix, tensor.shape[1])
            if found is not None:
                yield found


def _embeddings(tensors: Tensors, taken: set[str]) -> Iterable[Linear]:
    for name, tensor in tensors.items():
        match = _LAST.match(name)
        if match is None or name in taken or len(tensor.shape) != 2 or "emb" not in name.lower():
            continue
        prefix, leaf = match["prefix"] or "", match["leaf"]
        if leaf in ("weight", "embedding", "embeddings") and prefix + "bias" not in tensors:
            yield Linear(prefix.rstrip("./") or leaf, tensor, None, False)
