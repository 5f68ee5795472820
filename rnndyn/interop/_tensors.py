"""Named tensors of a file or a module, read when they are needed, and what is checked of each."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor that is not read yet."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    load: Callable[[], Any]

    def numbers(self) -> np.ndarray:
        """The weights in float64, which holds every narrower float exactly.

        **Raises:** `ValueError` for integers, 8-bit floats and complex numbers, or NaN and infinity.
        """
        array = self.load()
        if array.dtype.kind in "iub" or array.dtype.itemsize == 1:
            raise ValueError(
                f"{self.name}: expected floating-point weights, got {self.dtype}: quantised, or no weights at all. "
                "Dequantise the model and save it again."
            )
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(f"{self.name}: expected real floating-point weights, got {self.dtype}.")
        array = np.asarray(array, np.float64)
        wrong = ~np.isfinite(array)
        if wrong.any():
            where = tuple(int(i) for i in np.argwhere(wrong)[0])
            raise ValueError(
                f"{self.name}: holds {array[where]} at {list(where)} ({int(wrong.sum())} of {array.size} entries are "
                "NaN or infinity). Training may have diverged: load an earlier checkpoint."
            )
        return array

    def scalar(self) -> float:
        """The one number of a tensor of any numeric dtype."""
        array = np.asarray(self.load())
        if array.size != 1 or array.dtype.kind not in "iuf":
            raise ValueError(f"{self.name}: expected one number, got {self.dtype} of shape {self.shape}.")
        return float(array.reshape(()))

    def whole(self) -> np.ndarray:
        """Numbers of any dtype, as float64 (masks and signs)."""
        array = np.asarray(self.load())
        if array.dtype.kind not in "iufb":
            raise ValueError(f"{self.name}: expected numbers, got {self.dtype}.")
        return array.astype(np.float64)

    def text(self) -> str | None:
        """The string in it, or `None` where it holds no string."""
        array = np.asarray(self.load())
        return str(array.reshape(())) if array.size == 1 and array.dtype.kind in "US" else None


Tensors = Mapping[str, StoredTensor]


def stored(arrays: Mapping[str, Any]) -> dict[str, StoredTensor]:
    """Arrays or tensors that are in memory already, by name."""
    return {name: _stored(name, value) for name, value in arrays.items()}


def refuse_others(tensors: Tensors, start: str, own: Iterable[str], advice: str) -> None:
    """Raise for a tensor under the prefix of a cell that is none of its own: what has it is another cell."""
    others = [name for name in tensors if name.startswith(start) and name not in set(own)]
    others = [name for name in others if "seed_generator" not in name]
    if others:
        raise ValueError(
            f"{others[0]} lies among the weights of this cell, which has no such tensor. If it has no part in the "
            f"step, leave it out. Else: {advice}"
        )


def flattened(tree: Any, separator: str = "/") -> dict[str, Any]:
    """The arrays of nested mappings by path; what is no array is left out."""
    found: dict[str, Any] = {}

    def visit(node: Any, path: tuple[str, ...]) -> None:
        if isinstance(node, Mapping):
            for key, child in node.items():
                visit(child, (*path, str(key)))
        elif isinstance(node, str | np.ndarray | np.generic) or hasattr(node, "shape"):
            found[separator.join(path)] = np.asarray(node) if isinstance(node, str) else node

    visit(tree, ())
    return found


def as_numpy(name: str, value: Any) -> np.ndarray:
    """An array of any library as NumPy; bfloat16 of torch, which NumPy does not know, as float32."""
    if getattr(value, "is_quantized", False):
        raise ValueError(f"{name}: a quantised tensor. Import the model as it was before quantisation.")
    for method in ("detach", "cpu"):
        value = getattr(value, method)() if callable(getattr(value, method, None)) else value
    if str(getattr(value, "dtype", "")) == "torch.bfloat16":
        value = value.float()
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name}: NumPy cannot read this {type(value).__name__}: {_one_line(error)}") from error


def _stored(name: str, value: Any) -> StoredTensor:
    if not hasattr(value, "shape") or not hasattr(value, "dtype"):
        value = np.asarray(value)
    if np.dtype(object) == value.dtype:
        raise ValueError(f"{name}: expected an array of numbers, got an array of Python objects.")
    dtype = str(value.dtype).removeprefix("torch.")
    return StoredTensor(name, tuple(int(n) for n in value.shape), dtype, lambda: as_numpy(name, value))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
