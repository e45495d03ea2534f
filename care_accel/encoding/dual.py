"""A dual encoder: a query encoder and a document encoder that share a vector space."""

from __future__ import annotations

import copy
import hashlib
import shutil
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from care_accel.encoding.base import BaseDualEncoder
from care_accel.encoding.choice import (
    Choice,
    RuntimeName,
    choose,
    load_runtime,
    require_compilable,
    require_runtime,
    with_int8,
)
from care_accel.encoding.encoder import Encoder
from care_accel.encoding.loading.dense import store
from care_accel.encoding.loading.quiet import save_network
from care_accel.encoding.loading.sources import (
    DEFAULT,
    MANIFEST,
    MANIFEST_FORMAT,
    Source,
    Sources,
    find_sources,
    open_checkpoint,
)
from care_accel.encoding.pickling import Signature, check_pinned, pinned, remember
from care_accel.encoding.runtimes import Runtime
from care_accel.encoding.runtimes.pytorch import PyTorchRuntime
from care_accel.encoding.runtimes.server import ServerClient
from care_accel.encoding.served import ServedDualEncoder
from care_accel.encoding.spec import ROLES, EncoderSpec, Role
from care_accel.errors import CareError
from care_accel.files import write_json
from care_accel.folders import replaced_folder


class DualEncoder(BaseDualEncoder):
    """Encodes queries and documents into one vector space; the score is the inner product.

    Create one with `from_pretrained`. Each encoder is loaded on first use: a service that only encodes queries never
    loads the document encoder.

    A pickle holds the absolute paths of the files, the options, and the hash of the files, not the weights: another process
    that opens it loads them on first use. A copy shares the networks that are loaded, and counts on its own.

    Attributes
    ----------
    name : str
    width : int
        Embedding dimension.
    symmetric : bool
        Whether one network serves both roles.
    loaded_with : dict or None
        The arguments of `from_pretrained` that say which model it is; None if it was made in another way.
    """

    loaded_with: dict[str, Any] | None = None

    def __init__(self, sources: Sources, runtime: RuntimeName = "auto", compiled: bool = False) -> None:
        self._sources = sources
        self._runtime = runtime
        self._compiled = compiled
        self._encoders: dict[Role, Encoder] = {}
        self._signatures: dict[Role, Signature] = {}  # of the files of loaded encoders
        self._loading = threading.Lock()
        self.name = sources.name
        self.width = sources.query.spec.width
        self.symmetric = sources.query.checkpoint == sources.document.checkpoint

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
        base: str | Path | None = None,
        revision: str | None = None,
        runtime: RuntimeName = "auto",
        compiled: bool = False,
    ) -> DualEncoder:
        """Locate a dual encoder and check its files; networks are loaded on first use.

        Parameters
        ----------
        model : str or Path, optional
            ``"care-mini"`` (embedded, the default); a folder with ``care.json``; a folder with
            ``query_encoder/`` and ``document_encoder/`` or ``doc_encoder/`` (the authors' release); a
            sentence-transformers folder, with or without a Router; or a hub name of any of these.
        query, document : str or Path, optional
            Two folders or hub names instead of ``model``. A folder may hold a LoRA adapter, trained with or without a head
            (``task_type``), which is merged into its base model.
        preset : {"care", "sentence-transformers"}, optional
            Settings for folders without ``care.json``: ``care`` by default for the authors' layout,
            ``sentence-transformers`` for two separate folders.
        width : int, optional
            Embedding dimension, if smaller than the model's own.
        max_tokens : int, optional
            Maximum tokens per text, instead of the model's own.
        dtype : {"float32", "float16", "bfloat16", "int8"}, optional
            Precision of the networks. ``"int8"`` needs the native runtime and applies only to the encoders that it
            supports.
        device : str, optional
            ``"auto"``, ``"cpu"``, ``"cuda"``, ...
        base : str or Path, optional
            Folder or hub name of the base model of a LoRA adapter, instead of the one that its ``adapter_config.json``
            names.
        revision : str, optional
            Commit, tag or branch of a hub name.
        runtime : {"auto", "pytorch", "onnx", "native", "tensorrt"}
            Runtime of the networks. ``"auto"`` selects the fastest available one for each role; `explain` shows which
            and why. ``onnx`` and ``tensorrt`` need the files that ``care-accel export`` wrote.
        compiled : bool
            PyTorch runtime on a GPU only: run small batches as CUDA graphs of layers fused by ``torch.compile``.
            Loading takes longer, most of all the first time, so this is for long-running programs. Refused if neither
            encoder runs in PyTorch on a GPU.

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
            sources = find_sources(model, query, document, preset, revision, changes | {"dtype": dtype}, base)
        else:
            sources = with_int8(find_sources(model, query, document, preset, revision, changes, base))
        if compiled:
            require_compilable(sources, runtime)
        found = cls(sources, runtime, compiled)
        which = {
            "model": DEFAULT if model is query is document is None else model,
            "query": query,
            "document": document,
            "preset": preset,
            "width": width,
            "base": base,
        }
        which |= {"max_tokens": max_tokens, "dtype": dtype, "revision": revision}
        found.loaded_with = {name: value for name, value in which.items() if value is not None}
        return found

    @classmethod
    def from_server(cls, address: str, **options: Any) -> ServedDualEncoder:
        """Return a dual encoder whose networks run in an inference server (needs the extra ``server``).

        Parameters
        ----------
        address : str
            Host and gRPC port, such as ``"localhost:8001"``, or HTTP port, such as ``"http://localhost:8000"``; see
            `ServerClient`.
        **options
            Passed to `ServerClient`: ``timeout`` (seconds per request), ``retries``, ``in_flight``.

        Raises
        ------
        CareError
            The server does not answer, or serves no encoder of this package.
        """
        return ServedDualEncoder(ServerClient(address, **options))

    def encoder(self, role: Role) -> Encoder:
        """Return the encoder of a role; load it if needed.

        Raises
        ------
        CareError
            The weights do not match the manifest, or cannot be loaded.
        """
        with self._loading:  # concurrent first calls load once
            if role not in self._encoders:
                self._encoders[role] = self._load(role)
            return self._encoders[role]

    def _load(self, role: Role) -> Encoder:
        source = self.source(role)
        checkpoint = source.checkpoint
        self._signatures[role] = checkpoint.signature
        source.verify()
        # PyTorch's networks are transformers' own: with one loaded, nothing is saved by doing without its tokenizers.
        plain = self.choice(role).runtime in ("native", "onnx")
        tokenizer = checkpoint.open_tokenizer() if plain else checkpoint.load_tokenizer()
        encoder = Encoder(source.spec, tokenizer, self._load_runtime(role), checkpoint.load_vocabulary())
        encoder.origin = self._origin(role)
        remember(encoder.runtime, encoder.origin)
        return encoder

    def _origin(self, role: Role) -> _Origin:
        source = self.source(role)
        if self.symmetric:  # hashed once
            source = replace(source, checkpoint=self._sources.query.checkpoint)
        signature = self._signatures.get(role, source.checkpoint.signature)
        return _Origin(source, signature, self._runtime, self._compiled)

    def _load_runtime(self, role: Role) -> Runtime:
        source, choice = self.source(role), self.choice(role)
        other = self._encoders.get("document" if role == "query" else "query") if self.symmetric else None
        if choice.runtime == "pytorch":
            if other is not None and isinstance(other.runtime, PyTorchRuntime):
                network = other.runtime.network
            else:
                network = source.checkpoint.load_network(source.spec.dtype)
            return PyTorchRuntime(
                network, source.spec, source.checkpoint.load_dense(source.spec), compiled=self._compiled
            )
        # Prompts may differ: they are applied before tokenisation, outside the runtime.
        if other is not None and replace(other.spec, prompts={}) == replace(source.spec, prompts={}):
            return other.runtime
        return load_runtime(choice, source)

    def choice(self, role: Role) -> Choice:
        """Return the runtime of a role's encoder and the reason for the choice, without loading the network.

        Raises
        ------
        CareError
            No runtime, or not the requested one, can run it here.
        """
        return choose(self.source(role), self._runtime)

    def _explanation(self) -> list[str]:
        lines = []
        for role in ROLES:
            network = f"{self.source(role).checkpoint.settings['model_type']} network"
            try:
                choice = self.choice(role)
            except CareError as problem:
                lines.append(f"{role}: {network}, cannot run: {problem}")
                continue
            where = choice.device if choice.threads is None else f"{choice.device}, {choice.threads} threads"
            lines.append(f"{role}: {network}, {choice.dtype}, {choice.runtime} on {where}: {choice.reason}")
            lines += [f"  not {name}: {reason}" for name, reason in choice.rejected.items()]
        return lines

    def source(self, role: Role) -> Source:
        """Return the checkpoint and the spec of a role's encoder."""
        return self._sources.query if role == "query" else self._sources.document

    def spec(self, role: Role) -> EncoderSpec:
        """Return the spec of a role."""
        return self.source(role).spec

    def revision(self, role: Role) -> str:
        """Return a hash of a role's encoder: its files and the fields of its spec that affect its vectors.

        An index records the revision of the document encoder that made it. Searching it with another revision is
        refused.
        """
        source = self.source(role)
        # The recorded fingerprint is verified on loading. A service that never loads the document encoder need not
        # read gigabytes to hash it.
        both = f"{source.recorded or source.checkpoint.fingerprint} {source.spec.identity}"
        return f"sha256:{hashlib.sha256(both.encode()).hexdigest()}"

    def provenance(self, role: Role) -> dict[str, Any]:
        """Return what identifies a role's encoder: folder, hashes, runtime and spec."""
        source = self.source(role)
        return {
            "folder": str(source.checkpoint.folder),
            "revision": self.revision(role),
            "weights": source.checkpoint.fingerprint,
            "runtime": self.choice(role).runtime,
            "spec": source.spec.to_dict(),
        }

    def twin(self, role: Role = "document") -> DualEncoder:
        """Return the symmetric twin: one role's network for both roles, each role with its own prompts.

        The document encoder's twin is the baseline for what a small query encoder costs in accuracy and saves in
        latency.
        """
        shared = self.source(role)
        sources = {
            side: replace(shared, spec=replace(shared.spec, prompts=self.spec(side).prompts))
            for side in ROLES
        }
        return DualEncoder(
            Sources(f"{self.name}-{role}-twin", sources["query"], sources["document"]),
            self._runtime,
            self._compiled,
        )

    def save_pretrained(self, folder: str | Path, *, name: str | None = None) -> None:
        """Write the dual encoder as one folder: two encoder folders and ``care.json``.

        Parameters
        ----------
        folder : str or Path
            Replaced if it holds a dual encoder and nothing else; otherwise it must be empty or missing.
        name : str, optional
            Recorded in the manifest; the folder's name by default.

        Raises
        ------
        CareError
            The folder exists and holds something else.
        """
        folder = Path(folder)
        subfolders: dict[Role, str] = {
            role: "query_encoder" if self.symmetric else f"{role}_encoder" for role in ROLES
        }
        with replaced_folder(folder, MANIFEST, [f"{role}_encoder" for role in ROLES], private=False) as built:
            manifest: dict[str, Any] = {"format": MANIFEST_FORMAT, "name": name or folder.resolve().name}
            for role, subfolder in subfolders.items():
                if not (built / subfolder).exists():
                    self._write_encoder(role, built / subfolder)
                manifest[role] = {
                    "folder": subfolder,
                    "spec": self.spec(role).to_dict() | {"device": "auto"},
                    "revision": open_checkpoint(built / subfolder).fingerprint,
                }
            write_json(built / MANIFEST, manifest)

    def _write_encoder(self, role: Role, folder: Path) -> None:
        checkpoint = self.source(role).checkpoint
        if checkpoint.base is None:
            # A copy keeps the bytes, and so the fingerprint.
            shutil.copytree(checkpoint.folder, folder, ignore=shutil.ignore_patterns(".*", MANIFEST))
            store(checkpoint.dense_files, folder)
            return
        dtype = self.spec(role).dtype  # int8 weights are quantised on loading, never stored
        save_network(checkpoint.load_network("float32" if dtype == "int8" else dtype), folder)
        checkpoint.load_tokenizer().save_pretrained(folder)
        store(checkpoint.dense_files, folder)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.name, self._origin("query"), self._origin("document"))

    def __copy__(self) -> DualEncoder:
        copied = DualEncoder(self._sources, self._runtime, self._compiled)
        with self._loading:
            copied._encoders = {role: copy.copy(encoder) for role, encoder in self._encoders.items()}
            copied._signatures = dict(self._signatures)
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> DualEncoder:
        return self.__copy__()

    def __repr__(self) -> str:
        kind = "symmetric" if self.symmetric else "asymmetric"
        return f"<DualEncoder {self.name}: {kind}, width {self.width}>"


@dataclass(frozen=True)
class _Origin:
    """How one encoder was loaded: what pickles of it, of its runtime and of its dual encoder hold."""

    source: Source
    signature: Signature
    runtime: RuntimeName
    compiled: bool

    def load(self) -> Encoder:
        """Load the encoder again."""
        sources = Sources(self.source.checkpoint.folder.name, self.source, self.source)
        return DualEncoder(sources, self.runtime, self.compiled).encoder("query")

    def load_runtime(self) -> Runtime:
        """Load the encoder again, and return its runtime."""
        return self.load().runtime

    def __reduce__(self) -> tuple[Any, ...]:
        source = pinned(self.source, self.signature)
        return _restore_origin, (source, self.signature, self.runtime, self.compiled)


def _restore_origin(source: Source, signature: Signature, runtime: RuntimeName, compiled: bool) -> _Origin:
    check_pinned(source, signature)
    return _Origin(source, signature, runtime, compiled)


def _restore(name: str, query: _Origin, document: _Origin) -> DualEncoder:
    return DualEncoder(Sources(name, query.source, document.source), query.runtime, query.compiled)
