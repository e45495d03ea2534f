"""The inference server's document encoder, for vectors that are kept."""

from __future__ import annotations

from typing import Any

from care_accel.encoding.runtimes.attempts import ServerError
from care_accel.encoding.runtimes.server_messages import EncodeResult
from care_accel.encoding.served import ServedDualEncoder, ServedTextEncoder
from care_accel.encoding.spec import Role
from care_accel.errors import CareError


class EncoderChanged(CareError):
    """The inference server has another model than the one that its vectors were meant to be of."""


class SteadyTextEncoder(ServedTextEncoder):
    """A `ServedTextEncoder` that asks after every request whether the server still has the same model.

    A client looks that up once. A server that was restarted with another model between two requests would otherwise put
    vectors of two models into one collection.
    """

    def _request(self, texts: list[str], task: Any, **options: Any) -> EncodeResult:
        try:
            result = super()._request(texts, task, **options)
            now = self._client.describe(self._served.role, refresh=True)
        except ServerError:
            raise
        except CareError as cause:
            raise EncoderChanged(str(cause)) from None
        if now.revision != self._served.revision:
            raise EncoderChanged(f"the server has switched to document encoder {now.revision}")
        return result


class SteadyDualEncoder(ServedDualEncoder):
    """A `ServedDualEncoder` of `SteadyTextEncoder`."""

    def encoder(self, role: Role) -> ServedTextEncoder:
        """Return the encoder of a role; see `ServedDualEncoder.encoder`."""
        if role not in self._encoders:
            self._encoders[role] = SteadyTextEncoder(self.client, self.served(role))
        return self._encoders[role]
