"""Builds dataclasses from YAML or JSON values, with validation of every field."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from care_accel.errors import CareError

T = TypeVar("T")


def read_yaml(file: Path) -> Any:
    """Return the contents of a YAML file.

    Raises
    ------
    CareError
        The file is missing, not UTF-8 or not YAML.
    """
    import yaml

    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as cause:
        raise CareError(f"{file}: cannot be read: {cause.strerror}") from None
    except UnicodeDecodeError:
        raise CareError(f"{file}: is not UTF-8; save it as UTF-8") from None
    except yaml.YAMLError as cause:
        raise CareError(f"{file}: not YAML: {' '.join(str(cause).split())}") from None


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return isinstance(value, str)


_TYPE_NAMES = {float: "a number", int: "an integer", str: "a string", bool: "true or false"}


def build(kind: type[T], values: Any, where: str) -> T:
    """Build a dataclass from nested YAML or JSON values, according to its annotations.

    Parameters
    ----------
    kind : type
        A dataclass. A field's metadata may set another ``name`` for the file.
    values : object
        Contents of a YAML or JSON file.
    where : str
        Prefix of error messages.

    Raises
    ------
    CareError
        A field is unknown, missing or has the wrong type; the message has its path, such as
        ``stages[0].data[2].kind``.
    """
    if not isinstance(values, Mapping):
        raise CareError(f"{where}: must be a mapping of fields")
    fields = {f.metadata.get("name", f.name): f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(kind)
    for name in values:
        if name not in fields:
            near = difflib.get_close_matches(str(name), fields, n=1)
            hint = f", did you mean {near[0]!r}?" if near else ";"
            raise CareError(f"{where}: unknown field {name!r}{hint} known fields: {', '.join(fields)}")
    built = {
        fields[name].name: _convert(hints[fields[name].name], value, f"{where}: {name}")
        for name, value in values.items()
    }
    for name, spec in fields.items():
        required = spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING
        if required and spec.name not in built:
            raise CareError(f"{where}: field {name!r} is missing")
    return kind(**built)


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        return _convert(next(a for a in arguments if a is not type(None)), value, where)
    if dataclasses.is_dataclass(hint):
        return build(hint, value, where)  # type: ignore[arg-type]
    if origin is list:
        if not isinstance(value, list):
            raise CareError(f"{where}: must be a list")
        return [_convert(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value)]
    if origin is Literal:
        if value not in arguments:
            raise CareError(f"{where}: {value!r} is not one of {', '.join(map(str, arguments))}")
        return value
    if origin is dict:
        if not isinstance(value, Mapping):
            raise CareError(f"{where}: must be a mapping")
        return dict(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        # YAML reads 1e-4 as a string: its numbers need a decimal point.
        note = "; write 1.0e-4 for 1e-4" if hint is float and _is_number(value) else ""
        raise CareError(f"{where}: {value!r} is not {_TYPE_NAMES.get(hint, hint.__name__)}{note}")
    return value
