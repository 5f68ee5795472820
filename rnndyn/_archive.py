"""Files of arrays with a JSON header and a checksum: written whole or not at all, nothing pickled, one reader."""

import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

_HEADER = "__rnndyn__"


def write_archive(path: Path, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write `header` (plain JSON) and `arrays` to the npz file `path`, replacing it at once.

    Written beside, flushed to the disk and moved into place: an interruption leaves the last whole file. dtypes that
    NumPy's format does not know (bfloat16, float8) are stored as unsigned integers, their names in the header.

    **Raises:** `ValueError` for an array of Python objects.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    stored, foreign = {}, {}
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise ValueError(f"{name}: an array of Python objects cannot be saved.")
        if array.dtype.kind == "V" and array.dtype.names is None and not array.dtype.name.startswith("void"):
            foreign[name] = array.dtype.name
            array = np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}").reshape(array.shape)
        stored[name] = array
    whole = {"header": dict(header), "dtypes": foreign}
    text = json.dumps(whole | {"checksum": _checksum(whole, stored)})
    beside = path.with_name(path.name + ".partial")
    try:
        with beside.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **{_HEADER: np.array(text)}, **stored)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def read_archive(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The header and the arrays that `write_archive` wrote.

    **Raises:** `ValueError` when the file is truncated, empty, changed or was written by something else;
    `FileNotFoundError` when there is none.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            members = {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise
    # What NumPy, zipfile and zlib raise on bytes that are not an npz file, or no longer one.
    except (
        ValueError, OSError, EOFError, KeyError, TypeError, AttributeError, IndexError, SyntaxError, OverflowError,
        MemoryError, NotImplementedError, RuntimeError, UnicodeError, zipfile.BadZipFile, zlib.error,
    ) as error:  # fmt: skip
        raise ValueError(
            f"path: {path} cannot be read: it is damaged, cut short or no npz file ({type(error).__name__}: {error})."
        ) from error
    text = members.pop(_HEADER, None)
    if not all(isinstance(member, np.ndarray) for member in (text, *members.values())) or text.dtype.kind != "U":
        raise ValueError(f"path: {path} holds nothing saved by rnndyn (its header is missing).")
    try:
        whole = json.loads(str(text))
        claimed = whole.pop("checksum")
        header, foreign = whole["header"], whole["dtypes"]
        matches = claimed == _checksum(whole, members)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"path: {path} holds nothing saved by this version of rnndyn (its header is foreign)."
        ) from error
    if not matches:
        raise ValueError(f"path: {path} was changed after it was written (its checksum does not match). Save it again.")
    for name, dtype in foreign.items():
        members[name] = members[name].view(jnp.dtype(dtype))
    return header, members


def _checksum(whole: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256(json.dumps(whole, sort_keys=True).encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
