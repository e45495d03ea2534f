"""A dual encoder whose networks run in an inference server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from care_accel.encoding.base import BaseDualEncoder, BaseEncoder, EncodeCounts, checked_texts
from care_accel.encoding.choice import Choice
from care_accel.encoding.runtimes.attempts import ServerError
from care_accel.encoding.runtimes.server import ServerClient
from care_accel.encoding.runtimes.server_descriptions import ServedEncoder
from care_accel.encoding.runtimes.server_messages import EncodeResult
from care_accel.encoding.spec import ROLES, EncoderSpec, Role, Task
from care_accel.errors import CareError
from care_accel.files import replace_lone_surrogates
from care_accel.progress import Advance


class ServedTextEncoder(BaseEncoder):
    """One encoder of an inference server; texts to embeddings as with `Encoder`.

    Attributes
    ----------
    spec : EncoderSpec
    counts : EncodeCounts
        Texts, tokens and replaced surrogates. Truncations and the like are in the server's metrics.
    """

    def __init__(self, client: ServerClient, served: ServedEncoder) -> None:
        self.spec = served.spec
        self.counts = EncodeCounts()
        self._client = client
        self._served = served

    def _encode(
        self, texts: list[str], task: Task, batch_size: int, token_budget: int, advance: Advance
    ) -> NDArray[np.float32]:
        clean = [replace_lone_surrogates(text) for text in texts]
        result = self._request([text for text, _ in clean], task, batch_size=batch_size, progress=advance)
        self.counts.texts += len(clean)
        self.counts.tokens += int(result.tokens.sum())
        self.counts.replaced_surrogates += sum(replaced for _, replaced in clean)
        return result.vectors

    def encode_timed(
        self, texts: Sequence[str], task: Task = "retrieval"
    ) -> tuple[NDArray[np.float32], float, float]:
        result = self._request(checked_texts(texts), task)
        self.counts.texts += len(result.tokens)
        self.counts.tokens += int(result.tokens.sum())
        tokenise, encode = batch_times(result.times)
        return result.vectors, tokenise, encode

    def _request(self, texts: list[str], task: Task, **options: Any) -> EncodeResult:
        result = self._client.encode(self._served.role, texts, task, **options)
        # The client accepts a changed model; here its vectors must not be mixed with those of the earlier model.
        if (now := self._client.describe(self._served.role)) != self._served:
            raise CareError(
                f"{self._client.address}: no longer serves {self._served.role} encoder {self._served.revision}, but "
                f"{now.revision}; call from_server again and re-encode earlier texts"
            )
        return result


class ServedDualEncoder(BaseDualEncoder):
    """A `DualEncoder` whose encoders run in an inference server; created by `DualEncoder.from_server`.

    It encodes, searches and is evaluated like a `DualEncoder`, but has no weights: no `save_pretrained`, no `twin`.
    Thread-safe.

    Attributes
    ----------
    name : str
        Name of the served model.
    width : int
        Embedding dimension.
    symmetric : bool
        Whether one network serves both roles.
    client : ServerClient
    """

    def __init__(self, client: ServerClient) -> None:
        self.client = client
        self._encoders: dict[Role, ServedTextEncoder] = {}
        self._missing: dict[Role, CareError] = {}
        served = []
        for role in ROLES:
            try:
                served.append(client.describe(role))
            except ServerError as error:
                if error.status != "NOT_FOUND":  # a server may serve one role only
                    raise
                self._missing[role] = error
        if not served:
            raise self._missing["query"]
        self.name = served[0].name
        self.width = served[0].width
        self.symmetric = served[0].symmetric
        if (other := served[-1]).name != self.name or other.width != self.width:
            raise CareError(
                f"{client.address}: the query encoder belongs to {self.name} (width {self.width}), the document encoder "
                f"to {other.name} (width {other.width}); serve both encoders of one model"
            )

    def encoder(self, role: Role) -> ServedTextEncoder:
        """Return the encoder of a role.

        Raises
        ------
        CareError
            The server does not serve it.
        """
        if role not in self._encoders:
            self._encoders[role] = ServedTextEncoder(self.client, self.served(role))
        return self._encoders[role]

    def served(self, role: Role) -> ServedEncoder:
        """Return the server's description of an encoder.

        Raises
        ------
        CareError
            The server does not serve it.
        """
        if role in self._missing:
            raise self._missing[role]
        return self.client.describe(role)

    def spec(self, role: Role) -> EncoderSpec:
        """Return the spec of a role."""
        return self.served(role).spec

    def revision(self, role: Role) -> str:
        """Return the hash of a role's encoder: weights, tokenizer and spec, as `DualEncoder.revision`."""
        return self.served(role).revision

    def choice(self, role: Role) -> Choice:
        """Return the runtime of a role's encoder: the server, with its address as the device."""
        dtype = self.spec(role).dtype
        return Choice("server", dtype, self.client.address, None, "requested by from_server")

    def provenance(self, role: Role) -> dict[str, Any]:
        """Return what identifies a role's encoder: server address, hashes and spec."""
        served = self.served(role)
        return {
            "server": self.client.address,
            "revision": served.revision,
            "weights": served.fingerprint,
            "runtime": "server",
            "spec": served.spec.to_dict(),
        }

    def _explanation(self) -> list[str]:
        lines = []
        for role in ROLES:
            if role in self._missing:
                lines.append(f"{role}: cannot run: {self._missing[role]}")
                continue
            served = self.served(role)
            lines.append(
                f"{role}: {served.spec.dtype}, server on {self.client.address}, at most {served.max_batch_size} texts "
                f"per request, revision {served.revision}"
            )
        return lines

    def close(self) -> None:
        """Close the connection."""
        self.client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<ServedDualEncoder {self.name} at {self.client.address}: width {self.width}>"


def batch_times(times: NDArray[np.float32]) -> list[float]:
    """Sum per-text times, counting each batch once: all texts of a batch carry the batch's time."""
    return [float(total) for total in np.unique(times, axis=0).sum(axis=0)]
