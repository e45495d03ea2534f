"""A model for workers: some texts kill their process, fail there, or make it slow."""

import os
import signal
import time

from care_accel import DualEncoder
from care_accel.encoding.base import BaseDualEncoder

KILLS, FAILS = "毒药", "失败"


class Poisoned(BaseDualEncoder):
    """The embedded model, with texts that do harm.

    Parameters
    ----------
    seconds : float
        Each call of the encoder takes so much longer.
    """

    def __init__(self, seconds=0.0):
        self._seconds = seconds
        self._inner = DualEncoder.from_pretrained("care-mini")
        self.name, self.width = self._inner.name, self._inner.width
        self.symmetric = self._inner.symmetric

    def __reduce__(self):
        return Poisoned, (self._seconds,)

    def encoder(self, role):
        encoder = self._inner.encoder(role)
        encode, seconds = encoder.encode, self._seconds

        def harmful(texts, **options):
            if any(KILLS in text for text in texts):
                os.kill(os.getpid(), signal.SIGKILL)
            if any(FAILS in text for text in texts):
                raise OSError("No space left on device")
            time.sleep(seconds)
            return encode(texts, **options)

        encoder.encode = harmful
        return encoder

    def spec(self, role):
        return self._inner.spec(role)

    def revision(self, role):
        return self._inner.revision(role)

    def choice(self, role):
        return self._inner.choice(role)

    def provenance(self, role):
        return self._inner.provenance(role)

    def _explanation(self):
        return []
