"""Results as tables of other libraries: rows for pandas, labelled arrays for xarray. Both are optional."""

import dataclasses
import importlib
import typing
from typing import Any

import numpy as np


def dataframe(result: Any) -> Any:
    """The `pandas.DataFrame` of a result of several items; see `Result.to_dataframe`."""
    pandas = _optional("pandas", "to_dataframe")
    if not hasattr(type(result), "__len__"):
        raise ValueError(f"{type(result).__name__} is one item, not several: it has no rows. Use to_dict().")
    number = len(result)
    columns: dict[str, Any] = {}
    for name in [*_field_names(result), *_property_names(result)]:
        value = getattr(result, name)
        if isinstance(value, np.ndarray) and value.shape == (number,):
            columns[name] = value
    for name in _field_names(result):
        value = getattr(result, name)
        if name == "points" and isinstance(value, np.ndarray) and value.ndim == 2 and len(value) == number:
            columns |= {f"x{k}": value[:, k] for k in range(value.shape[1])}
    return pandas.DataFrame(columns, index=pandas.RangeIndex(number))


def dataset(result: Any) -> Any:
    """The `xarray.Dataset` of the arrays of a result; see `Result.to_xarray`."""
    xarray = _optional("xarray", "to_xarray")
    lengths: dict[str, int] = {}
    variables: dict[str, Any] = {}
    attributes: dict[str, Any] = {"result": type(result).__name__}
    for field in dataclasses.fields(result):
        value = getattr(result, field.name)
        if isinstance(value, str | int | float | bool):
            attributes[field.name] = value
        if not hasattr(value, "shape") or not hasattr(value, "dtype"):
            continue
        array = np.asarray(value)
        axes = _axes(field.type)
        if len(axes) != array.ndim:
            axes = [f"{field.name}_{k}" for k in range(array.ndim)]
        # A letter stands for one length in a result; where two fields disagree (or it appears twice), it gets a name.
        used: list[str] = []
        for k, (axis, length) in enumerate(zip(axes, array.shape)):
            # A number ("2 N") is a length, no name.
            if not axis.isidentifier() or axis in used or lengths.setdefault(axis, length) != length:
                axis = f"{field.name}_{k}"
            used.append(axis)
        variables[field.name] = (used, array)
    return xarray.Dataset(variables, attrs=attributes)


def _optional(library: str, method: str) -> Any:
    try:
        return importlib.import_module(library)
    except ImportError as error:
        raise ImportError(f"{method} needs {library}: pip install 'rnndyn[tables]'.") from error


def _field_names(result: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(result)]


def _property_names(result: Any) -> list[str]:
    found = {name: item for base in reversed(type(result).__mro__) for name, item in vars(base).items()}
    return [name for name, item in found.items() if isinstance(item, property) and not name.startswith("_")]


def _axes(annotation: Any) -> list[str]:
    """The names of the axes that a jaxtyping annotation gives, of the first alternative that has any."""
    for part in (annotation, *typing.get_args(annotation)):
        text = getattr(part, "dim_str", None)
        if text is not None:
            return text.split()
    return []
