"""A model for workers: some texts kill their process, fail there, or make it slow."""

import contextlib
import os
import resource
import signal
import time
from pathlib import Path

from care_accel import DualEncoder
from care_accel.encoding.base import BaseDualEncoder

KILLS, FAILS = "毒药", "失败"
# Of a file, where there is no room for more: less than any fragment has.
MOST_BYTES = 2000


class Poisoned(BaseDualEncoder):
    """The embedded model, with texts that do harm.

    Parameters
    ----------
    seconds : float
        Each call of the encoder takes so much longer.
    broken : str, optional
        A file; the first process that encodes a part creates it, and has no room for files from then on.
    """

    def __init__(self, seconds=0.0, broken=None):
        self._seconds, self._broken = seconds, broken
        self._inner = DualEncoder.from_pretrained("care-mini")
        self.name, self.width = self._inner.name, self._inner.width
        self.symmetric = self._inner.symmetric

    def __reduce__(self):
        return Poisoned, (self._seconds, self._broken)

    def encoder(self, role):
        encoder = self._inner.encoder(role)
        encode, seconds = encoder.encode, self._seconds

        def harmful(texts, **options):
            if any(KILLS in text for text in texts):
                os.kill(os.getpid(), signal.SIGKILL)
            if any(FAILS in text for text in texts):
                raise OSError("No space left on device")
            if len(texts) > 3 and self._is_broken():
                most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
                resource.setrlimit(resource.RLIMIT_FSIZE, (MOST_BYTES, most))
            time.sleep(seconds)
            return encode(texts, **options)

        encoder.encode = harmful
        return encoder

    def _is_broken(self):
        if self._broken is None:
            return False
        with contextlib.suppress(FileExistsError), open(self._broken, "x") as file:
            file.write(str(os.getpid()))
        return Path(self._broken).read_text() == str(os.getpid())

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
