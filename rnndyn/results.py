"""What every analysis returns: a frozen record that prints as a table and is saved without pickle."""

import dataclasses
import hashlib
import json
import os
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

_FORMAT = 1
_HEADER = "__rnndyn__"
# What the readers of zip files, arrays and JSON raise at bytes that make no sense to them.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    json.JSONDecodeError,
    UnicodeDecodeError,
    EOFError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    TypeError,
    SyntaxError,
    MemoryError,
)
_result_types: dict[str, type["Result"]] = {}


class Result(eqx.Module):
    """A frozen record of values and the evidence for them.

    A subclass declares its fields and may override `table`, the short text that `print` shows. Fields hold
    arrays, numbers, strings, booleans, `None`, other results, and tuples, lists or string-keyed dictionaries
    of these.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _result_types[cls.__name__] = cls

    def table(self) -> str:
        """A short table of the result, as `print` shows it."""
        rows = [
            (field.name, _summary(getattr(self, field.name)))
            for field in dataclasses.fields(self)  # pyright: ignore[reportArgumentType]
        ]
        width = max((len(name) for name, _ in rows), default=0)
        lines = [f"  {name:<{width}}  {text}" for name, text in rows]
        return "\n".join([type(self).__name__, *lines])

    def __str__(self) -> str:
        return self.table()

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dictionary of NumPy arrays and plain Python values; nested results become dictionaries."""
        return {
            field.name: _to_plain(getattr(self, field.name))
            for field in dataclasses.fields(self)  # pyright: ignore[reportArgumentType]
        }

    def save(self, path: str | Path) -> Path:
        """Write the result to `path` (`.npz` is appended when missing); `rnndyn.load` reads it back.

        Nothing is pickled: arrays go into an npz archive, everything else into its JSON header, with a checksum of
        both. The file appears only when it is complete.

        **Arguments:**

        - `path`: where to write; missing folders are made.

        **Returns:** the path written.

        **Raises:** `ValueError` when a field holds something that is neither an array nor plain data.
        """
        path = Path(path)
        if path.suffix != ".npz":
            path = path.with_name(path.name + ".npz")
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, np.ndarray] = {}
        body = _encode(self, type(self).__name__, arrays)
        header = json.dumps({"format": _FORMAT, "body": body, "sha256": _checksum(body, arrays)})
        unfinished = path.with_name(path.name + ".tmp")
        try:
            with unfinished.open("wb") as file:
                np.savez_compressed(file, allow_pickle=False, **{_HEADER: np.array(header)}, **arrays)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        return path


def load(path: str | Path) -> Result:
    """Read a result that `Result.save` wrote.

    **Arguments:**

    - `path`: the `.npz` file.

    **Returns:** a result of the class that was saved, with NumPy arrays for its arrays.

    **Raises:** `ValueError` when the file was not written by `Result.save`, by a newer format, or when a byte of it is
    not as it was written; `FileNotFoundError` when there is none.
    """
    try:
        header, arrays = _read(path)
    except _DAMAGE as error:
        raise ValueError(f"path: {path} is damaged, or no result of rnndyn ({error}).") from error
    # Files of before 0.1.0 have none.
    if "sha256" in header and header["sha256"] != _checksum(header["body"], arrays):
        raise ValueError(f"path: {path} is damaged (its checksum is not that of its content).")
    result = _decode(header["body"], arrays)
    if not isinstance(result, Result):
        raise ValueError(f"path: {path} holds no saved rnndyn result.")
    return result


def _read(path: str | Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    with np.load(path, allow_pickle=False) as archive:
        if _HEADER not in archive:
            raise ValueError(f"path: {path} holds no saved rnndyn result (its header is missing).")
        header = json.loads(str(archive[_HEADER]))
        if header["format"] > _FORMAT:
            raise ValueError(
                f"path: {path} has format {header['format']}; this version of rnndyn reads up to {_FORMAT}. "
                "Upgrade rnndyn."
            )
        return header, {name: archive[name] for name in archive.files if name != _HEADER}


def _checksum(body: Any, arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256(json.dumps(body).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray | np.generic | jax.Array)


def _to_plain(value: Any) -> Any:
    if isinstance(value, Result):
        return value.to_dict()
    if _is_array(value):
        return np.asarray(value)
    if isinstance(value, tuple | list):
        return type(value)(_to_plain(item) for item in value)
    if isinstance(value, dict):
        return {key: _to_plain(item) for key, item in value.items()}
    return value


def _encode(value: Any, where: str, arrays: dict[str, np.ndarray]) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if _is_array(value):
        key = f"array_{len(arrays)}"
        arrays[key] = np.asarray(value)
        return {"array": key}
    if isinstance(value, Result):
        return {
            "result": type(value).__name__,
            "fields": {
                field.name: _encode(getattr(value, field.name), f"{where}.{field.name}", arrays)
                for field in dataclasses.fields(value)  # pyright: ignore[reportArgumentType]
            },
        }
    if isinstance(value, tuple | list):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_encode(item, f"{where}[{i}]", arrays) for i, item in enumerate(value)]}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": {key: _encode(item, f"{where}[{key!r}]", arrays) for key, item in value.items()}}
    raise ValueError(
        f"{where}: a {type(value).__name__} cannot be saved. Results hold arrays, numbers, strings and other results."
    )


def _decode(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return arrays[value["array"]]
    if "tuple" in value:
        return tuple(_decode(item, arrays) for item in value["tuple"])
    if "list" in value:
        return [_decode(item, arrays) for item in value["list"]]
    if "dict" in value:
        return {key: _decode(item, arrays) for key, item in value["dict"].items()}
    cls = _result_types.get(value["result"])
    if cls is None:
        raise ValueError(
            f"the file holds a {value['result']}, which this version of rnndyn does not know. Upgrade rnndyn."
        )
    # A result may compute fields in its __init__; what was saved is laid in as it was.
    result = object.__new__(cls)
    for name, item in value["fields"].items():
        object.__setattr__(result, name, _decode(item, arrays))
    return result


def _summary(value: Any) -> str:
    if not _is_array(value):
        lines = (str(value) if isinstance(value, Result) else repr(value)).splitlines()
        return lines[0] if len(lines) == 1 else lines[0] + " ..."
    array = np.asarray(value)
    if array.size <= 6 and array.ndim <= 1:
        return np.array2string(array, precision=6, separator=", ")
    shape = "x".join(map(str, array.shape))
    return f"{array.dtype} array, {shape}"
