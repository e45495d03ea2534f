"""Files of dense layers: those of a sentence-transformers folder, and ``dense/`` in an encoder's own folder."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from care_accel.encoding.spec import Dense
from care_accel.errors import CareError
from care_accel.files import read_json

if TYPE_CHECKING:
    import torch

FOLDER = "dense"
_WEIGHT, _BIAS = "linear.weight", "linear.bias"
# Classes of torch.nn, which sentence-transformers names by their full path. Nothing is imported by such a path.
_ACTIVATIONS = {
    "Identity": "identity",
    "Tanh": "tanh",
    "ReLU": "relu",
    "GELU": "gelu",
    "Sigmoid": "sigmoid",
    "SiLU": "silu",
}
LIBRARY_ACTIVATIONS = {ours: theirs for theirs, ours in _ACTIVATIONS.items()}


def stored_name(position: int) -> str:
    """Return the path of a layer's weights in an encoder's folder."""
    return f"{FOLDER}/{position:02d}.safetensors"


def stored_files(folder: Path) -> tuple[Path, ...]:
    """Return the dense layers in an encoder's folder, in order."""
    return tuple(sorted((folder / FOLDER).glob("[0-9][0-9].safetensors")))


def store(files: Sequence[Path], folder: Path) -> None:
    """Copy the dense layers of an encoder into a folder, byte by byte."""
    for position, file in enumerate(files):
        target = folder / stored_name(position)
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():  # the encoder's folder was copied with its own layers
            shutil.copyfile(file, target)


def store_random(layers: Sequence[Dense], inputs: int, folder: Path) -> None:
    """Write dense layers with random weights."""
    import torch
    from safetensors.torch import save_file

    for position, layer in enumerate(layers):
        linear = torch.nn.Linear(inputs, layer.width, bias=layer.bias)
        target = folder / stored_name(position)
        target.parent.mkdir(parents=True, exist_ok=True)
        tensors = {_WEIGHT: linear.weight.detach()} | ({_BIAS: linear.bias.detach()} if layer.bias else {})
        save_file(tensors, target)
        inputs = layer.width


def check_shapes(files: Sequence[Path], layers: Sequence[Dense], inputs: int, folder: Path) -> None:
    """Check that the files hold the layers of a spec, without reading their weights.

    Parameters
    ----------
    files : sequence of Path
    layers : sequence of Dense
    inputs : int
        The network's hidden size.
    folder : Path
        Named if a file is missing.

    Raises
    ------
    CareError
        A file is missing, corrupt or of other shapes; the message names it.
    """
    if len(files) != len(layers):
        raise CareError(
            f"{folder}: has weights of {len(files)} dense layers, but its spec has {len(layers)}; open the model by the "
            "folder that holds its care.json or modules.json"
        )
    for file, layer in zip(files, layers, strict=True):
        expected = {_WEIGHT: [layer.width, inputs]} | ({_BIAS: [layer.width]} if layer.bias else {})
        if (found := _shapes(file)) != expected:
            raise CareError(
                f"{file}: a dense layer needs {_listed(expected)}, but the file has {_listed(found)}; save the model again"
            )
        inputs = layer.width


def _shapes(file: Path) -> dict[str, list[int]]:
    from safetensors import safe_open

    try:
        with safe_open(file, framework="np") as tensors:
            return {name: tensors.get_slice(name).get_shape() for name in sorted(tensors.keys())}
    except Exception as cause:  # safetensors raises its own types
        raise CareError(f"{file}: cannot be read as safetensors: {cause}; save the model again") from None


def _listed(shapes: dict[str, list[int]]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in sorted(shapes.items()))


def load_tensors(file: Path) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the weight and the bias of a layer in float32."""
    from safetensors.torch import load_file

    tensors = load_file(file)
    bias = tensors.get(_BIAS)
    return tensors[_WEIGHT].float(), None if bias is None else bias.float()


def read_library_layer(folder: Path, *, normalize: bool) -> tuple[Dense, Path]:
    """Read the folder of a sentence-transformers Dense module.

    Parameters
    ----------
    folder : Path
    normalize : bool
        Whether a Normalize module comes before it.

    Returns
    -------
    layer : Dense
    file : Path
        Its weights.

    Raises
    ------
    CareError
        Something is missing or not supported; the message names the file.
    """
    config = folder / "config.json"
    values = read_json(config, "a Dense module needs it")
    for name, needed in (("module_input_name", "sentence_embedding"), ("use_residual", False)):
        if values.get(name, needed) != needed:
            raise CareError(f"{config}: {name} {values[name]!r} is not supported; only {needed!r} is")
    if values.get("module_output_name") not in (None, "sentence_embedding"):
        raise CareError(
            f"{config}: module_output_name {values['module_output_name']!r} is not supported; only "
            "'sentence_embedding' is"
        )
    # The library's default is Tanh.
    dotted = str(values.get("activation_function", "torch.nn.Tanh"))
    name = dotted.rsplit(".", 1)[-1]
    if not dotted.startswith("torch.nn.") or name not in _ACTIVATIONS:
        raise CareError(
            f"{config}: activation_function {dotted!r} is not supported; the supported ones are "
            f"{', '.join(_ACTIVATIONS)} of torch.nn"
        )
    file = folder / "model.safetensors"
    if not file.is_file():
        raise CareError(
            f"{file}: no such file; a Dense module is read from safetensors only: load and save the model with "
            "sentence-transformers to convert it"
        )
    try:
        layer = Dense(values["out_features"], _ACTIVATIONS[name], values.get("bias", True), normalize)
    except KeyError as missing:
        raise CareError(f"{config}: {missing.args[0]} is missing; save the model again") from None
    except CareError as wrong:
        raise CareError(str(wrong).replace("encoder spec", str(config), 1)) from None
    return layer, file
