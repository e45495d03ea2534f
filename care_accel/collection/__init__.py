"""Documents in a collection on disk that changes: own ids, fields, filters, chunks, versions."""

from care_accel.collection.collection import Collection
from care_accel.collection.writing import Upserted

__all__ = ["Collection", "Upserted"]
