"""What every analysis returns: a frozen record that prints as a table and is saved without pickle."""

import dataclasses
import html
from pathlib import Path
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import numpy as np

from rnndyn._archive import read_archive, write_archive
from rnndyn._tabular import dataframe, dataset
from rnndyn._verdicts import first_verdict as first_verdict
from rnndyn._verdicts import is_any_verdict, items_of, look_up, read_verdict, verdict_words
from rnndyn._verdicts import is_verdict as is_verdict
from rnndyn._verdicts import join_verdicts as join_verdicts
from rnndyn._verdicts import repeat_verdict as repeat_verdict
from rnndyn._verdicts import stack_verdicts as stack_verdicts
from rnndyn._verdicts import take_verdicts as take_verdicts

_FORMAT = 2
_result_types: dict[str, type["Result"]] = {}
"""By `_type_name`: a class of the same bare name elsewhere is another one."""


def _type_name(cls: type) -> str:
    """What a class is called in a file: the library's own by bare name, for they may move; others with their module."""
    module = "rnndyn" if cls.__module__.partition(".")[0] == "rnndyn" else cls.__module__
    return f"{module}:{cls.__qualname__}"


class Result(eqx.Module):
    """A frozen record of values and the evidence for them.

    A subclass declares its fields and may override `table`, the short text that `print` shows. Fields hold
    arrays, numbers, strings, booleans, `None`, items of an `equinox.Enumeration` (verdicts), other results, and
    tuples, lists or string-keyed dictionaries of these.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _result_types[_type_name(cls)] = cls

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

    def to_dataframe(self) -> Any:
        """A `pandas.DataFrame` with one row for each item: every field and property that has one entry an item, and the
        coordinates of `points` as `x0`, `x1`, ...

        **Raises:** `ImportError` without pandas (extra `tables`); `ValueError` for a result that is one item.
        """
        return dataframe(self)

    def to_xarray(self) -> Any:
        """An `xarray.Dataset` of all fields that are arrays, their axes named as in the documentation (`K`, `T`, `N`);
        numbers and text become attributes.

        **Raises:** `ImportError` without xarray (extra `tables`).
        """
        return dataset(self)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return f"<pre>{html.escape(self.table())}</pre>"

    def save(self, path: str | Path) -> Path:
        """Write the result to `path` (`.npz` is appended when missing); `rnndyn.load` reads it back.

        Nothing is pickled: arrays go into an npz archive, everything else into its JSON header, and a checksum of all
        beside them. The file is replaced at once: an interruption leaves the last whole one.

        **Arguments:**

        - `path`: where to write; missing folders are made.

        **Returns:** the path written.

        **Raises:** `ValueError` when a field holds something that is neither an array nor plain data.
        """
        path = Path(path)
        if path.suffix != ".npz":
            path = path.with_name(path.name + ".npz")
        arrays: dict[str, np.ndarray] = {}
        body = _encode(self, type(self).__name__, arrays)
        write_archive(path, {"format": _FORMAT, "body": body}, arrays)
        return path


class Judged(Result):
    """A result that says how it came out: as a whole or, where it has items, each of them.

    Every verdict of the library has this form: `result`, an item of an `equinox.Enumeration`, or a batch of them with
    the shape of the items, to be compared with `==` and counted; and its words. A `reason` beside it, where there is
    one, adds the numbers of the case.
    """

    # A subclass has it as a field or as a property. To a type checker it would be the first argument of every result.
    if not TYPE_CHECKING:
        result: eqx.AbstractVar[Any]

    @property
    def message(self) -> Any:
        """The verdict in words: one string, or an array of them for a batch."""
        return verdict_words(self.result)  # pyright: ignore[reportAttributeAccessIssue]


def load(path: str | Path) -> Result:
    """Read a result that `Result.save` wrote.

    **Arguments:**

    - `path`: the `.npz` file.

    **Returns:** a result of the class that was saved, with NumPy arrays for its arrays. A class of your own is found by
    its module and name, so its module has to be imported first.

    **Raises:** `ValueError` when the file is damaged, was not written by `Result.save`, by another version, or holds a
    class that is not known here; `FileNotFoundError` when there is none.
    """
    header, arrays = read_archive(Path(path))
    if not isinstance(header.get("format"), int) or "body" not in header:
        raise ValueError(f"path: {path} holds no saved rnndyn result (it holds something else of rnndyn).")
    if header["format"] > _FORMAT:
        raise ValueError(
            f"path: {path} has format {header['format']}; this version of rnndyn reads up to {_FORMAT}. Upgrade rnndyn."
        )
    try:
        result = _decode(header["body"], arrays)
    # The checksum held, so the file is what was written: by another version, whose layout this one does not know.
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"path: {path} has a layout that this version of rnndyn does not know ({error!r}).") from error
    if not isinstance(result, Result):
        raise ValueError(f"path: {path} holds no saved rnndyn result.")
    return result


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
    return verdict_words(value) if is_any_verdict(value) else value


def _encode(value: Any, where: str, arrays: dict[str, np.ndarray]) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if _is_array(value):
        key = f"array_{len(arrays)}"
        try:
            arrays[key] = np.asarray(value)
        except TypeError as error:  # typed PRNG keys
            raise ValueError(
                f"{where}: an array of {value.dtype} cannot be saved. Keep jax.random.key_data."
            ) from error
        if arrays[key].dtype.hasobject:
            raise ValueError(f"{where}: an array of Python objects cannot be saved.")
        return {"array": key}
    if is_any_verdict(value):
        return {
            "verdict": _type_name(value._enumeration),
            "names": np.asarray(look_up(value, {n: n for n in items_of(value._enumeration)})).tolist(),
        }
    if isinstance(value, Result):
        return {
            "result": _type_name(type(value)),
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
    if "verdict" in value:
        return read_verdict(value["verdict"], value["names"])
    cls = _result_types.get(value["result"])
    if cls is None:
        module, _, name = value["result"].partition(":")
        raise ValueError(
            f"the file holds a {name} of {module}, which is not known here. "
            + ("Upgrade rnndyn." if module == "rnndyn" else f"Import {module} before you load it.")
        )
    fields = {field.name: field for field in dataclasses.fields(cls)}  # pyright: ignore[reportArgumentType]
    missing = [name for name, field in fields.items() if name not in value["fields"] and not _has_default(field)]
    unknown = [name for name in value["fields"] if name not in fields]
    if missing or unknown:
        raise ValueError(
            f"the file holds a {cls.__name__} of another version: it lacks the fields {missing} and has the unknown "
            f"fields {unknown}. Save it again with this version."
        )
    # A result may compute fields in its __init__; what was saved is laid in as it was.
    result = object.__new__(cls)
    for name, field in fields.items():
        if name in value["fields"]:
            object.__setattr__(result, name, _decode(value["fields"][name], arrays))
        elif field.default_factory is not dataclasses.MISSING:
            object.__setattr__(result, name, field.default_factory())
    return result


def _has_default(field: dataclasses.Field) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _summary(value: Any) -> str:
    if not _is_array(value):
        if is_any_verdict(value):
            return str(verdict_words(value))
        lines = (str(value) if isinstance(value, Result) else repr(value)).splitlines()
        return lines[0] if len(lines) == 1 else lines[0] + " ..."
    array = np.asarray(value)
    if array.size <= 6 and array.ndim <= 1:
        return np.array2string(array, precision=6, separator=", ")
    shape = "x".join(map(str, array.shape))
    return f"{array.dtype} array, {shape}"
