"""What an inference server says of its models: encoders and search."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from care_accel.encoding.runtimes.transports.interface import Configuration
from care_accel.encoding.spec import EncoderSpec, Role
from care_accel.errors import CareError

# Names of the served models; `care_accel.serving` writes their repository.
ENCODERS: dict[Role, str] = {"query": "query_encoder", "document": "document_encoder"}
SEARCH, SCAN = "search", "scan"
DESCRIPTION = "care"  # parameter of a model's configuration with its description as JSON


@dataclass(frozen=True)
class ServedEncoder:
    """A server's description of one of its encoders.

    Attributes
    ----------
    name : str
        Name of its dual encoder.
    role : {"query", "document"}
    width : int
        Embedding dimension.
    revision : str
        `DualEncoder.revision` of the role.
    fingerprint : str
        Hash of the checkpoint.
    spec : EncoderSpec
    symmetric : bool
    max_batch_size : int
        Maximum texts per request.
    """

    name: str
    role: Role
    width: int
    revision: str
    fingerprint: str
    spec: EncoderSpec
    symmetric: bool
    max_batch_size: int


@dataclass(frozen=True)
class ServedSearch:
    """A server's description of its search.

    Attributes
    ----------
    width : int
        Embedding dimension.
    revision : str
        Revision of the document encoder that made the index.
    max_k : int
        Maximum hits per query.
    max_batch_size : int
        Maximum queries per request.
    collection : bool
        Whether documents are those of a collection: they have own ids, and searches may be filtered.
    """

    width: int
    revision: str
    max_k: int
    max_batch_size: int
    collection: bool = False


def read_encoder(config: Configuration, role: Role, address: str) -> ServedEncoder:
    """Read the description of an encoder from its model configuration.

    Raises
    ------
    CareError
        The configuration has no description: the model was not written by this package.
    """
    values = _description(config, address)
    try:
        served = ServedEncoder(
            name=str(values["name"]),
            role=values["role"],
            width=int(values["width"]),
            revision=str(values["revision"]),
            fingerprint=str(values["fingerprint"]),
            spec=EncoderSpec.from_dict(values["spec"], f"{address}: {config.name}"),
            symmetric=bool(values["symmetric"]),
            max_batch_size=max(1, config.max_batch_size),
        )
    except (KeyError, TypeError, ValueError) as cause:
        raise _no_description(config, address, cause) from None
    if served.role != role:
        raise CareError(
            f"{address}: {config.name} serves the {served.role} encoder; write its model repository again"
        )
    return served


def search_describer(search: Configuration) -> str:
    """Return the name of the model whose configuration describes the search: ``scan`` if ``search`` is an ensemble."""
    return SEARCH if DESCRIPTION in search.parameters else SCAN


def read_search(search: Configuration, described: Configuration, address: str) -> ServedSearch:
    """Read the description of the search.

    Parameters
    ----------
    search : Configuration
    described : Configuration
        That of `search_describer`.
    address : str

    Raises
    ------
    CareError
        There is no description: the models were not written by this package.
    """
    values = _description(described, address)
    try:
        return ServedSearch(
            width=int(values["width"]),
            revision=str(values["revision"]),
            max_k=int(values["most_k"]),
            max_batch_size=max(1, search.max_batch_size),
            collection=bool(values.get("collection", False)),
        )
    except (KeyError, TypeError, ValueError) as cause:
        raise _no_description(described, address, cause) from None


def _description(config: Configuration, address: str) -> Mapping[str, Any]:
    try:
        values = json.loads(config.parameters.get(DESCRIPTION, ""))
    except ValueError as cause:
        raise _no_description(config, address, cause) from None
    if not isinstance(values, dict):
        raise _no_description(config, address, TypeError("not a JSON object"))
    return values


def _no_description(config: Configuration, address: str, cause: Exception) -> CareError:
    reason = f"{cause} is missing" if isinstance(cause, KeyError) else cause
    return CareError(
        f"{address}: the configuration of {config.name} has no parameter {DESCRIPTION!r} that this release can read "
        f"({reason}); write the model repository again with care-accel export --repository"
    )
