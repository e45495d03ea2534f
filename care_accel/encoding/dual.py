"""A dual encoder: a query encoder and a document encoder that share a vector space."""

from __future__ import annotations

import hashlib
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from care_accel.encoding.base import BaseDualEncoder
from care_accel.encoding.choice import (
    Choice,
    RuntimeName,
    choose,
    load_exported,
    require_compiling,
    require_runtime,
    with_int8,
)
from care_accel.encoding.encoder import Encoder
from care_accel.encoding.loading import sources
from care_accel.encoding.loading.quiet import save_network
from care_accel.encoding.loading.sources import MANIFEST, MANIFEST_FORMAT, Source, Sources
from care_accel.encoding.runtimes import Runtime
from care_accel.encoding.runtimes.pytorch import PyTorchRuntime
from care_accel.encoding.runtimes.server import ServerClient
from care_accel.encoding.served import ServedDualEncoder
from care_accel.encoding.spec import ROLES, EncoderSpec, Role
from care_accel.errors import CareError
from care_accel.files import replaced_folder, write_json


class DualEncoder(BaseDualEncoder):
    """Queries and documents to vectors of one space; their inner product is the score.

    Make one with `from_pretrained`. Each encoder is loaded when it is first used: a service that only
    encodes queries never loads the document encoder.

    Attributes
    ----------
    name : str
    width : int
        Length of every vector.
    symmetric : bool
        Whether one network serves both roles.
    """

    def __init__(self, found: Sources, runtime: RuntimeName = "auto", compiled: bool = False) -> None:
        self._sources = found
        self._runtime = runtime
        self._compiled = compiled
        self._encoders: dict[Role, Encoder] = {}
        self._loading = threading.Lock()
        self.name = found.name
        self.width = found.query.spec.width
        self.symmetric = found.query.checkpoint == found.document.checkpoint

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | None = None,
        *,
        query: str | Path | None = None,
        document: str | Path | None = None,
        preset: str | None = None,
        width: int | None = None,
        max_tokens: int | None = None,
        dtype: str | None = None,
        device: str | None = None,
        revision: str | None = None,
        runtime: RuntimeName = "auto",
        compiled: bool = False,
    ) -> DualEncoder:
        """Find a dual encoder and check its files; networks are loaded when first used.

        Parameters
        ----------
        model : str or Path, optional
            ``"care-mini"`` (embedded, the default); a folder with ``care.json``; a folder with
            ``query_encoder/`` and ``document_encoder/`` or ``doc_encoder/`` (the authors' release); a
            sentence-transformers folder, with a Router or without; or a hub name of any of these.
        query, document : str or Path, optional
            Two folders or hub names instead of ``model``; a document folder may hold a LoRA adapter,
            which is merged into the base that it names.
        preset : {"care", "sentence-transformers"}, optional
            What folders without ``care.json`` follow: ``care`` by default for the authors' layout,
            ``sentence-transformers`` for two separate folders.
        width : int, optional
            A shorter width than the model's own.
        max_tokens : int, optional
            Another limit than the model's own.
        dtype : {"float32", "float16", "bfloat16", "int8"}, optional
            Precision of the networks. ``"int8"`` is of the native runtime, and changes those encoders alone that
            it can run.
        device : str, optional
            ``"auto"``, ``"cpu"``, ``"cuda"``, ...
        revision : str, optional
            Of a hub name: a commit, tag or branch.
        runtime : {"auto", "pytorch", "onnx", "native", "tensorrt"}
            What runs the networks. ``"auto"`` is the fastest that is here for each role; `explain` tells which, and
            why. ``onnx`` and ``tensorrt`` run what ``care-accel export`` wrote.
        compiled : bool
            On a GPU with the PyTorch runtime: small batches run as CUDA graphs of layers that PyTorch's compiler has
            fused. Loading takes longer, the first time most of all: for programs that run long. Refused where neither
            encoder runs so.

        Returns
        -------
        DualEncoder

        Raises
        ------
        CareError
            Something is missing or does not fit; the message names the file and what to do.
        """
        require_runtime(runtime)
        changes = {"width": width, "max_tokens": max_tokens, "device": device}
        if dtype != "int8":
            found = sources.find(model, query, document, preset, revision, changes | {"dtype": dtype})
        else:
            found = with_int8(sources.find(model, query, document, preset, revision, changes))
        if compiled:
            require_compiling(found, runtime)
        return cls(found, runtime, compiled)

    @classmethod
    def from_server(cls, address: str, **options: Any) -> ServedDualEncoder:
        """Return a dual encoder whose networks run in an inference server (needs the extra ``server``).

        Parameters
        ----------
        address : str
            Host and gRPC port, such as ``"localhost:8001"``.
        **options
            Of `ServerClient`: ``timeout`` (seconds a request), ``retries``, ``in_flight``.

        Raises
        ------
        CareError
            The server does not answer, or serves no encoder of this package.
        """
        return ServedDualEncoder(ServerClient(address, **options))

    def encoder(self, role: Role) -> Encoder:
        """Return the encoder of a role, loaded now if it was not.

        Raises
        ------
        CareError
            The weights are not those that the manifest recorded, or cannot be loaded.
        """
        with self._loading:  # threads that ask first together load once
            if role not in self._encoders:
                self._encoders[role] = self._load(role)
            return self._encoders[role]

    def _load(self, role: Role) -> Encoder:
        source = self.source(role)
        checkpoint, recorded = source.checkpoint, source.recorded
        if recorded is not None and recorded != checkpoint.fingerprint:
            raise CareError(
                f"{checkpoint.folder}: not the files that {MANIFEST} recorded ({str(recorded)[:19]}..., found "
                f"{checkpoint.fingerprint[:19]}...); restore them, or save the model anew"
            )
        tokenizer = checkpoint.load_tokenizer()
        return Encoder(source.spec, tokenizer, self._load_runtime(role), checkpoint.load_vocabulary())

    def _load_runtime(self, role: Role) -> Runtime:
        source, choice = self.source(role), self.choice(role)
        other = self._encoders.get("document" if role == "query" else "query") if self.symmetric else None
        if choice.runtime == "pytorch":
            if other is not None and isinstance(other.runtime, PyTorchRuntime):
                network = other.runtime.network
            else:
                network = source.checkpoint.load_network(source.spec.dtype)
            return PyTorchRuntime(network, source.spec, compiled=self._compiled)
        # Prompts alone may differ: they are put in before a runtime sees anything.
        if other is not None and replace(other.spec, prompts={}) == replace(source.spec, prompts={}):
            return other.runtime
        return load_exported(choice, source)

    def choice(self, role: Role) -> Choice:
        """Return which runtime a role's encoder gets, and why; nothing is loaded for it.

        Raises
        ------
        CareError
            No runtime can run it here, or not the one that was asked for.
        """
        return choose(self.source(role), self._runtime)

    def _explanation(self) -> list[str]:
        lines = []
        for role in ROLES:
            network = f"{self.source(role).checkpoint.config.model_type} network"
            try:
                choice = self.choice(role)
            except CareError as hindrance:
                lines.append(f"{role}: {network}, cannot run: {hindrance}")
                continue
            where = choice.device if choice.threads is None else f"{choice.device}, {choice.threads} threads"
            lines.append(f"{role}: {network}, {choice.dtype}, {choice.runtime} on {where}: {choice.reason}")
            lines += [f"  not {name}: {why}" for name, why in choice.passed_over.items()]
        return lines

    def source(self, role: Role) -> Source:
        """Return where the encoder of a role comes from: its checkpoint and its spec."""
        return self._sources.query if role == "query" else self._sources.document

    def spec(self, role: Role) -> EncoderSpec:
        """Return the spec of a role."""
        return self.source(role).spec

    def revision(self, role: Role) -> str:
        """Return a hash of a role's encoder: its files and every field of its spec that matters.

        An index records the document encoder's, so that no other encoder's queries are ever compared
        with its vectors.
        """
        source = self.source(role)
        # What a manifest recorded is checked when the encoder is loaded: a service that never loads the
        # document encoder does not read gigabytes to name it.
        both = f"{source.recorded or source.checkpoint.fingerprint} {source.spec.identity}"
        return f"sha256:{hashlib.sha256(both.encode()).hexdigest()}"

    def provenance(self, role: Role) -> dict[str, Any]:
        """Return what a reader needs to get the same encoder of a role again."""
        source = self.source(role)
        return {
            "folder": str(source.checkpoint.folder),
            "revision": self.revision(role),
            "weights": source.checkpoint.fingerprint,
            "runtime": self.choice(role).runtime,
            "spec": source.spec.to_dict(),
        }

    def twin(self, role: Role = "document") -> DualEncoder:
        """Return the symmetric twin: the network of one role on both sides, each with its own prompts.

        What a small query encoder gives up, and wins, is measured against the document encoder's twin.
        """
        kept = self.source(role)
        sides = {
            side: replace(kept, spec=replace(kept.spec, prompts=self.spec(side).prompts)) for side in ROLES
        }
        return DualEncoder(
            Sources(f"{self.name}-{role}-twin", sides["query"], sides["document"]),
            self._runtime,
            self._compiled,
        )

    def save_pretrained(self, folder: str | Path, *, name: str | None = None) -> None:
        """Write the dual encoder as one folder: two encoder folders and ``care.json``.

        Parameters
        ----------
        folder : str or Path
            Replaced whole if it holds a dual encoder and nothing else; anything else there is refused.
        name : str, optional
            Recorded in the manifest; the folder's name by default.

        Raises
        ------
        CareError
            The folder exists and holds something else.
        """
        folder = Path(folder)
        places: dict[Role, str] = {
            role: "query_encoder" if self.symmetric else f"{role}_encoder" for role in ROLES
        }
        with replaced_folder(folder, MANIFEST, [f"{role}_encoder" for role in ROLES], private=False) as built:
            manifest: dict[str, Any] = {"format": MANIFEST_FORMAT, "name": name or folder.resolve().name}
            for role, place in places.items():
                if not (built / place).exists():
                    self._write_encoder(role, built / place)
                manifest[role] = {
                    "folder": place,
                    "spec": self.spec(role).to_dict() | {"device": "auto"},
                    "revision": sources.open_checkpoint(built / place).fingerprint,
                }
            write_json(built / MANIFEST, manifest)

    def _write_encoder(self, role: Role, place: Path) -> None:
        checkpoint = self.source(role).checkpoint
        if checkpoint.base is None:
            # Copied, not saved anew: the bytes, and with them the fingerprint, stay what they were.
            shutil.copytree(checkpoint.folder, place, ignore=shutil.ignore_patterns(".*", MANIFEST))
            return
        dtype = self.spec(role).dtype  # int8 is made while loading, and not stored
        save_network(checkpoint.load_network("float32" if dtype == "int8" else dtype), place)
        checkpoint.load_tokenizer().save_pretrained(place)

    def __repr__(self) -> str:
        kind = "symmetric" if self.symmetric else "asymmetric"
        return f"<DualEncoder {self.name}: {kind}, width {self.width}>"
