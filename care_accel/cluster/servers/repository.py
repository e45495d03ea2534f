"""Writes the model repository of a shard's inference server: both encoders, and ``scan`` over a part of a collection."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from care_accel.collection.storage.layout import located, names_collection
from care_accel.encoding.loading.sources import DEFAULT
from care_accel.encoding.runtimes.server_descriptions import SCAN
from care_accel.errors import CareError
from care_accel.folders import replaced_folder
from care_accel.serving.repository.config import (
    Tensor,
    add_instances,
    model_config,
    model_file,
    set_batching,
    write_model,
)
from care_accel.serving.repository.python_backend import (
    MODELS,
    index_parameters,
    load_served,
    require_index,
    write_encoders,
)

_BATCH = 64
_INPUTS = (
    *(Tensor("PART", "BYTES"), Tensor("VERSION", "INT64")),
    *(Tensor("K", "INT32", optional=True), Tensor("GROUP", "BOOL", optional=True)),
    Tensor("FILTER", "BYTES", optional=True),
)
_OUTPUTS = (
    *(Tensor("SCORES", "FP64", (-1,)), Tensor("IDS", "INT64", (-1,)), Tensor("CHUNKS", "INT32", (-1,))),
    *(Tensor("DOCUMENT_IDS", "BYTES", (-1,)), Tensor("DOCUMENTS", "BYTES", (-1,))),
    *(Tensor("COUNT", "INT64"), Tensor("STATE", "BYTES")),
)


def read_shard(text: str) -> tuple[int, int]:
    """Return the number of a shard from 0, and the number of shards, of a text such as ``2/3``, which counts from 1.

    Raises
    ------
    CareError
        It is no such text.
    """
    number, slash, of = text.partition("/")
    if not (slash and number.isascii() and number.isdigit() and of.isascii() and of.isdigit()):
        raise CareError(f"--shard {text[:40]!r} is not number/shards, such as 2/3 for the second of three")
    if not 1 <= int(number) <= int(of):
        raise CareError(f"--shard {text[:40]}: there is no such shard; they are counted from 1 to {of}")
    return int(number) - 1, int(of)


def write_shard_repository(
    folder: str | Path,
    collection: str | Path,
    shard: tuple[int, int],
    model: str | Path = DEFAULT,
    *,
    gpu: bool = False,
    several_tenants: bool = False,
    **options: Any,
) -> None:
    """Write a repository whose ``scan`` has a part of a collection; a gateway asks those of all parts.

    There is no ``search``: nobody takes the hits of a part for those of the collection.

    Parameters
    ----------
    folder : str or Path
        Replaced if it contains such a repository, or one of `write_repository`, and nothing else.
    collection : str or Path
        Its folder, or its address in an object store, whose options the server takes from its environment.
    shard : tuple of int
        Number of the shard, from 0, and number of shards.
    model, several_tenants, **options
        As for `write_repository`.
    gpu : bool
        Encoders on every GPU, and the scan on the first.

    Raises
    ------
    CareError
        There is no collection, or no such shard, its model is another one, or it has a lexical index.
    """
    from care_accel.collection import Collection

    number, of = shard
    if not 0 <= number < of:
        raise CareError(f"there is no shard {number} of {of}; they are counted from 0")
    place = located(collection)
    if not names_collection(place):
        raise CareError(f"{place}: is not a collection; create one with care-accel index")
    opened = Collection.open(place)
    if opened.manifest.lexical:
        raise CareError(
            f"{place} has a lexical index, whose statistics are of all documents and not of a server's; search it by shards "
            "with care-accel serve --cluster"
        )
    found, loading = load_served(model, options)
    require_index(place, found)
    parameters = index_parameters(found, loading, place)
    del parameters["recall_every"]  # a shard scans exactly
    known = json.loads(parameters["care"]) | {"uuid": opened.manifest.uuid, "shard": [number, of]}
    config = model_config(
        SCAN,
        backend="python",
        inputs=[*_INPUTS, Tensor("EMBEDDING", "FP32", (found.width,), optional=True)],
        outputs=_OUTPUTS,
        max_batch_size=_BATCH,
        parameters=parameters | {"care": json.dumps(known, ensure_ascii=False)},
    )
    # One instance: it alone knows which versions it holds.
    add_instances(config, kind="GPU" if gpu else "CPU", gpus=(0,) if gpu else ())
    set_batching(config)
    with replaced_folder(
        Path(folder), SCAN, [name for name in MODELS if name != SCAN], private=False
    ) as built:
        write_encoders(built, found, loading, gpu=gpu, several_tenants=several_tenants)
        write_model(built, config, {"1/model.py": model_file("servers.shard_model", "ShardModel", "cluster")})
