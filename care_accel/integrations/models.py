"""The model behind an adapter: an object, a name, or arguments that a framework can write to a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from care_accel.encoding import DualEncoder, ServedDualEncoder
from care_accel.encoding.base import BaseDualEncoder
from care_accel.errors import CareError

# A dual encoder; a folder or name; arguments of `DualEncoder.from_pretrained`, or ``{"server": address}`` with those of
# `DualEncoder.from_server`.
Model = BaseDualEncoder | str | Path | Mapping[str, Any]


def open_model(model: Model) -> BaseDualEncoder:
    """Return the dual encoder that is meant; a network is loaded when it first encodes.

    Parameters
    ----------
    model : DualEncoder, ServedDualEncoder, str, Path or mapping
        A model; the folder or name of one; or a mapping of arguments, as `describe_model` returns it.

    Raises
    ------
    CareError
        It is none of these, or cannot be found.
    """
    if isinstance(model, BaseDualEncoder):
        return model
    if isinstance(model, str | Path):
        return DualEncoder.from_pretrained(model)
    if not isinstance(model, Mapping):
        raise CareError(
            f"the model is a {type(model).__name__}; give a DualEncoder, a folder or name, or a dict of arguments"
        )
    arguments = dict(model)
    address = arguments.pop("server", None)
    try:
        if address is not None:
            return DualEncoder.from_server(address, **arguments)
        return DualEncoder.from_pretrained(**arguments)
    except TypeError as mistake:
        raise CareError(f"the model's arguments {dict(model)} do not fit: {mistake}") from None


def describe_model(model: Model) -> str | dict[str, Any]:
    """Return what `open_model` opens again: a name, or a dict of arguments, both JSON values.

    Raises
    ------
    CareError
        The model does not know where it came from, such as a twin.
    """
    if isinstance(model, str | Path):
        return str(model)
    if isinstance(model, Mapping):
        return _plain(model)
    if isinstance(model, ServedDualEncoder):
        return {"server": model.client.address}
    known = getattr(model, "loaded_with", None)
    if known is None:
        raise CareError(
            f"{model.name} cannot be written to settings, as it was not loaded by from_pretrained or from_server; save it "
            "with save_pretrained and give the folder"
        )
    if known.keys() == {"model"}:
        return str(known["model"])
    return _plain(known)


def _plain(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in arguments.items()}
