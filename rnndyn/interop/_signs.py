"""Masks and Dale's law of networks of plain matrices: what the stored weights become in the step."""

import dataclasses
from typing import Any

import numpy as np

from rnndyn.interop._tensors import StoredTensor, Tensors


@dataclasses.dataclass(frozen=True)
class Matrices:
    """The tensors of one network."""

    recurrent: StoredTensor
    input: StoredTensor | None
    biases: tuple[StoredTensor, ...]
    mask: StoredTensor | None
    input_mask: StoredTensor | None
    signs: StoredTensor | None
    times: dict[str, StoredTensor]
    activation: StoredTensor | None

    @property
    def used(self) -> tuple[str, ...]:
        """Their names."""
        alone = (self.recurrent, self.input, self.mask, self.input_mask, self.signs, self.activation)
        return tuple(t.name for t in (*alone, *self.biases, *self.times.values()) if t is not None)


class Signs:
    """Masks, and Dale's law as the file has it: multiplied in, or said why not."""

    def __init__(self, found: Matrices, tensors: Tensors, prefix: str, dale: str | None):
        if dale not in (None, "abs", "rectify", "none"):
            raise ValueError(f"dale: expected 'abs', 'rectify' or 'none', got {dale!r}.")
        size = found.recurrent.shape[0]
        self.notes: list[str] = []
        self.words = ""
        self.mask = _mask(found.mask, found.recurrent.shape)
        self.input_mask = None if found.input is None else _mask(found.input_mask, found.input.shape)
        self.signs, self.is_psychrnn = _read_signs(found.signs, size), False
        self.how = None
        if self.mask is not None or self.input_mask is not None:
            self.words += ", masks multiplied in"
        if self.signs is None or dale == "none":
            return
        weights = found.recurrent.numbers() if self.mask is None else found.recurrent.numbers() * self.mask
        self.is_psychrnn = found.signs is not None and found.signs.name.endswith("Dale_rec")
        if (weights * self.signs >= 0).all() and not (self.is_psychrnn and (self.signs < 0).any()):
            self.words += ", the weights obey the signs of Dale's law as they are"
        elif dale is not None:
            self.how = dale
        elif self.is_psychrnn and (self.signs > 0).all():
            self.notes.append("Dale_rec is the identity: trained without Dale's law, weights as they are")
        elif self.is_psychrnn:
            self.how = "abs"
        else:
            raise ValueError(
                f"{found.signs.name if found.signs else 'signs'}: the stored weights do not have these signs. Say how "
                "they are made to: dale='abs' for |W| D, dale='rectify' for [W]+ D, dale='none' for none of it."
            )
        if self.how is not None:
            self.words += f", signs of Dale's law multiplied in ({'|W| D' if self.how == 'abs' else '[W]+ D'})"

    def _positive(self, weight: np.ndarray) -> np.ndarray:
        return np.abs(weight) if self.how == "abs" else np.maximum(weight, 0)

    def recurrent(self, weight: np.ndarray) -> np.ndarray:
        """The recurrent weight that the step uses."""
        weight = weight if self.mask is None else weight * self.mask
        return weight if self.how is None else self._positive(weight) * self.signs

    def input(self, weight: np.ndarray) -> np.ndarray:
        """The input weight that the step uses."""
        weight = weight if self.input_mask is None else weight * self.input_mask
        # PsychRNN makes the input weights positive as well; others leave them.
        return self._positive(weight) if self.how is not None and self.is_psychrnn else weight

    def readout(self, found: Any, tensors: Tensors, prefix: str) -> Any:
        """The readout with the mask and signs that PsychRNN multiplies in."""
        mask, dale = tensors.get(prefix + "output_connectivity"), tensors.get(prefix + "Dale_out")
        apply_signs = self.how is not None and self.is_psychrnn and dale is not None
        if mask is None and not apply_signs:
            return found

        def load() -> np.ndarray:
            weight = found.weight.numbers()
            weight = weight if mask is None else weight * mask.whole()
            return self._positive(weight) @ dale.whole() if apply_signs and dale is not None else weight

        return dataclasses.replace(found, weight=dataclasses.replace(found.weight, load=load))


def _mask(tensor: StoredTensor | None, shape: tuple[int, ...]) -> np.ndarray | None:
    if tensor is None:
        return None
    if tensor.shape != shape:
        raise ValueError(f"{tensor.name}: expected a mask of shape {shape}, got {tensor.shape}.")
    mask = tensor.whole()
    return None if (mask == 1).all() else mask


def _read_signs(tensor: StoredTensor | None, size: int) -> np.ndarray | None:
    """+1 or -1 for each sending unit, from a vector or a diagonal matrix."""
    if tensor is None:
        return None
    signs = tensor.whole()
    if signs.shape == (size, size) and (signs == np.diag(np.diag(signs))).all():
        signs = np.diag(signs)
    signs = signs.reshape(-1)
    if signs.shape != (size,) or not np.isin(signs, (-1, 1)).all():
        raise ValueError(f"{tensor.name}: expected +1 or -1 for each of {size} units, got shape {tensor.shape}.")
    return signs
