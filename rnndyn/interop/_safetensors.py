"""The safetensors format: a length, a header of JSON, the bytes. Nothing is allocated before its claims are checked."""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from rnndyn.interop._tensors import StoredTensor

_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U64": "uint64",
    "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool", "C64": "complex64",
}  # fmt: skip
# The format's own bound.
_LARGEST_HEADER = 100_000_000


def read_safetensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors, after a check of every claim of the header against the size of the file.

    **Raises:** `ValueError` for a file that is damaged or cut short.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > size - 8:
            raise ValueError(
                f"path: {path} claims a header of {length} bytes and has {size} in all: it is cut short, or no "
                "safetensors file. Copy it again."
            )
        if length > _LARGEST_HEADER:
            raise ValueError(f"path: {path} has a header of {length} bytes; the format allows {_LARGEST_HEADER}.")
        try:
            header = json.loads(file.read(length))
            tensors = {name: _entry(path, name, e, 8 + length, size) for name, e in header.items() if name[:2] != "__"}
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError, AttributeError) as error:
            raise ValueError(f"path: {path} has a header that is no safetensors header. Copy it again.") from error
    return tensors


def _entry(path: Path, name: str, entry: dict[str, Any], base: int, size: int) -> StoredTensor:
    try:
        shape, (start, stop) = tuple(int(n) for n in entry["shape"]), (int(n) for n in entry["data_offsets"])
        claimed = str(entry["dtype"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"path: {path} describes {name} as no safetensors file does: it is damaged.") from error
    dtype = _DTYPES.get(claimed)
    if dtype is None:
        return StoredTensor(name, shape, claimed, lambda: _unreadable(name, claimed))
    # Python integers: a product of claimed sizes does not overflow.
    count = 1
    for n in shape:
        count *= n
    if min(shape, default=0) < 0 or start < 0 or stop - start != count * jnp.dtype(dtype).itemsize:
        raise ValueError(f"path: {path} describes {name} as {shape} of {dtype} in {stop - start} bytes: it is damaged.")
    if base + stop > size:
        raise ValueError(
            f"path: {path} is cut short: {name} ends at byte {base + stop}, the file at {size}. Copy it again."
        )

    def load() -> np.ndarray:
        with path.open("rb") as file:
            file.seek(base + start)
            return np.frombuffer(file.read(stop - start), jnp.dtype(dtype)).reshape(shape)

    return StoredTensor(name, shape, dtype, load)


def _unreadable(name: str, dtype: str) -> np.ndarray:
    raise ValueError(f"{name}: has the dtype {dtype}, which is not read. Save the weights as float32.")
