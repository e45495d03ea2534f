"""Model configurations, built from the server's protobuf schema and written as ``config.pbtxt``.

A message can only have fields known to the server, and its text format is deterministic: fields in schema order, map keys
sorted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from care_accel.errors import CareError

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

CONFIG = "config.pbtxt"
WARMUP = "warmup"  # the folder of warm-up samples, fixed by the server
VERSION = "1"

_PYTHON_MODEL = """import os, site  # runs in the server's own Python: adds the packages of the environment
any(map(site.addsitedir, filter(None, os.environ.get("CARE_ACCEL_SITE", "").split(os.pathsep))))
from care_accel.{module} import {name} as TritonPythonModel
"""

# Keys are client-side names; the schema has TYPE_..., and TYPE_STRING for BYTES.
_NUMPY = {"INT32": np.int32, "INT64": np.int64, "FP32": np.float32}


@dataclass(frozen=True)
class Tensor:
    """An input or output of a model.

    Parameters
    ----------
    name : str
    dtype : {"BYTES", "BOOL", "INT32", "INT64", "FP32"}
    dims : sequence of int
        Shape without the batch dimension; -1 for any size.
    optional : bool
        Whether a request may omit the input.
    """

    name: str
    dtype: str
    dims: Sequence[int] = (1,)
    optional: bool = False


@dataclass(frozen=True)
class Step:
    """A step of an ensemble.

    Parameters
    ----------
    model : str
    inputs : mapping of str to str
        Maps inputs of the model to tensors of the ensemble.
    outputs : mapping of str to str
        Maps outputs of the model to tensors of the ensemble.
    """

    model: str
    inputs: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)


def model_config(
    name: str,
    *,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    max_batch_size: int,
    backend: str = "",
    platform: str = "",
    parameters: Mapping[str, str] | None = None,
    steps: Sequence[Step] = (),
) -> ModelConfig:
    """Return a model configuration; set fields without a parameter here on the returned message.

    Parameters
    ----------
    name : str
        Name of the model and of its folder.
    inputs, outputs : sequence of Tensor
    max_batch_size : int
    backend, platform : str
        One of the two; neither for an ensemble.
    parameters : mapping of str to str, optional
    steps : sequence of Step
        Makes the model an ensemble.

    Raises
    ------
    CareError
        tritonclient is not installed.
    """
    schema = _schema()
    if steps:
        platform = "ensemble"
    config = schema.ModelConfig(name=name, backend=backend, platform=platform, max_batch_size=max_batch_size)
    for tensor in inputs:
        config.input.add(
            name=tensor.name, data_type=_dtype(tensor.dtype), dims=tensor.dims, optional=tensor.optional
        )
    for tensor in outputs:
        config.output.add(name=tensor.name, data_type=_dtype(tensor.dtype), dims=tensor.dims)
    for key, value in (parameters or {}).items():
        config.parameters[key].string_value = value
    for step in steps:
        config.ensemble_scheduling.step.add(
            model_name=step.model, model_version=-1, input_map=step.inputs, output_map=step.outputs
        )
    return config


def add_instances(
    config: ModelConfig, count: int = 1, *, kind: str = "CPU", gpus: Sequence[int] = ()
) -> None:
    """Add an instance group.

    Parameters
    ----------
    config : ModelConfig
        Modified in place.
    count : int
        Instances per GPU, or in total for CPU.
    kind : {"CPU", "GPU"}
    gpus : sequence of int
        All GPUs by default.
    """
    kinds = _schema().ModelInstanceGroup
    config.instance_group.add(count=count, kind=kinds.Kind.Value(f"KIND_{kind}"), gpus=gpus)


def set_batching(
    config: ModelConfig,
    *,
    delay_us: int = 0,
    preferred: Sequence[int] = (),
    queue: int = 0,
    timeout_us: int = 0,
) -> None:
    """Enable dynamic batching, optionally with a queue policy.

    Parameters
    ----------
    config : ModelConfig
        Modified in place.
    delay_us : int
        Maximum queue delay for batching, in microseconds.
    preferred : sequence of int
        Preferred batch sizes; any size by default.
    queue : int
        Maximum queue size; further requests are rejected. No limit by default.
    timeout_us : int
        Queue timeout, after which a request is rejected. No limit by default.
    """
    batching = config.dynamic_batching
    batching.SetInParent()  # even if all values are defaults
    batching.max_queue_delay_microseconds = delay_us
    batching.preferred_batch_size.extend(preferred)
    if queue:
        batching.default_queue_policy.max_queue_size = queue
    if timeout_us:
        policy = batching.default_queue_policy
        policy.default_timeout_microseconds = timeout_us
        policy.timeout_action = type(policy).REJECT


def add_warmup(
    config: ModelConfig, name: str, samples: Mapping[str, NDArray[Any] | bytes], *, batch_size: int = 1
) -> dict[str, bytes]:
    """Add a warm-up request, run before the model is ready.

    Parameters
    ----------
    config : ModelConfig
        Modified in place. Types are those of its inputs.
    name : str
    samples : mapping of str to numpy.ndarray or bytes
        One row of each input: an array without the batch dimension, or the bytes of one text.
    batch_size : int
        Batch size; the server replicates the row.

    Returns
    -------
    dict of str to bytes
        Files for `write_model`: contents by path within the model's folder.
    """
    kinds = {tensor.name: tensor.data_type for tensor in config.input}
    names = {_dtype(dtype): as_numpy for dtype, as_numpy in _NUMPY.items()}
    sample = config.model_warmup.add(name=name, batch_size=batch_size)
    files = {}
    for tensor, row in samples.items():
        file = f"{name}_{tensor}"
        if isinstance(row, bytes):
            dims: Sequence[int] = (1,)
            content = len(row).to_bytes(4, "little") + row  # the protocol's encoding of BYTES
        else:
            dims = row.shape
            content = np.ascontiguousarray(row, dtype=names[kinds[tensor]]).tobytes()
        given = sample.inputs[tensor]
        given.data_type, given.input_data_file = kinds[tensor], file
        given.dims.extend(dims)
        files[f"{WARMUP}/{file}"] = content
    return files


def write_model(
    repository: Path, config: ModelConfig, files: Mapping[str, str | bytes] | None = None
) -> Path:
    """Write a model's folder: configuration, version folder and files.

    Parameters
    ----------
    repository : Path
    config : ModelConfig
    files : mapping of str to str or bytes, optional
        By path within the model's folder. An empty version folder, which the server needs, gets a ``.gitkeep``.

    Returns
    -------
    Path
        The model's folder.
    """
    folder = repository / config.name
    (folder / VERSION).mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(text_of(config), encoding="utf-8")
    for path, content in (files or {}).items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    if not any((folder / VERSION).iterdir()):
        (folder / VERSION / ".gitkeep").touch()
    return folder


def model_file(module: str, name: str, package: str = "serving") -> str:
    """Return the ``model.py`` of a model class ``name`` in ``care_accel.<package>.<module>``."""
    return _PYTHON_MODEL.format(module=f"{package}.{module}", name=name)


def text_of(config: ModelConfig) -> str:
    """Return the text of ``config.pbtxt``."""
    from google.protobuf import text_format

    return text_format.MessageToString(config, as_utf8=True)


def read_config(file: Path) -> ModelConfig:
    """Read a ``config.pbtxt``.

    Raises
    ------
    CareError
        It is missing or does not match the server's schema.
    """
    schema = _schema()
    from google.protobuf import text_format

    try:
        return text_format.Parse(file.read_text(encoding="utf-8"), schema.ModelConfig())
    except FileNotFoundError:
        raise CareError(f"{file}: no such file; every model of a repository needs one") from None
    except (OSError, UnicodeDecodeError, text_format.ParseError) as cause:
        raise CareError(f"{file}: invalid model configuration: {' '.join(str(cause).split())}") from None


def _dtype(name: str) -> int:
    return _schema().DataType.Value("TYPE_STRING" if name == "BYTES" else f"TYPE_{name}")


def _schema() -> Any:
    try:
        from tritonclient.grpc import model_config_pb2
    except ImportError:
        raise CareError("tritonclient is not installed: pip install 'care-accel[server]'") from None
    return model_config_pb2
