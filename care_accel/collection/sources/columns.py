"""Tables in columns: Parquet files, and data sets of the Hugging Face library, saved or from its hub."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from care_accel.collection.sources.rows import BadRow, Found, Row, Selection
from care_accel.errors import CareError
from care_accel.files import read_json

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH = 1024
STATE = "state.json"


class ColumnFile:
    """Something with columns that is read in batches; it counts its rows.

    Attributes
    ----------
    total : int
        Rows in all.
    rows : int
        Those read so far.
    """

    def __init__(self, name: str, names: list[str], total: int) -> None:
        self.name, self.names, self.total, self.rows = name, names, total, 0

    def read(self, selection: Selection) -> Iterator[Found]:
        """Yield the rows; the first is row 1.

        Raises
        ------
        CareError
            A column is missing, or the file cannot be read.
        """
        for row in self.values(selection.columns(self.names, self.name)):
            yield f"{self.name}, row {self.rows}", row

    def values(self, columns: list[str]) -> Iterator[Row | BadRow]:
        """Yield the values of some columns, row by row.

        Raises
        ------
        CareError
            The file cannot be read.
        """
        import pyarrow as pa

        try:
            for batch in self.batches(columns):
                for row in _rows(batch.select(columns)):
                    self.rows += 1
                    yield row
        except (pa.ArrowException, OSError) as cause:
            raise CareError(
                f"{self.name}: cannot be read after row {self.rows}: {' '.join(str(cause).split())}"
            ) from None

    def batches(self, columns: list[str]) -> Iterable[pa.RecordBatch | pa.Table]:
        """Return the batches, with these columns at least."""
        raise NotImplementedError


def _rows(batch: pa.RecordBatch | pa.Table) -> Iterator[Row | BadRow]:
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:  # Parquet says that text is UTF-8, and nothing checks it
        for i in range(batch.num_rows):
            yield _one_row(batch.slice(i, 1))


def _one_row(batch: pa.RecordBatch | pa.Table) -> Row | BadRow:
    try:
        return cast(Row, batch.to_pylist()[0])
    except UnicodeDecodeError:
        return BadRow("is not UTF-8")


class Parquet(ColumnFile):
    """A Parquet file."""

    def __init__(self, file: Path) -> None:
        """Open a file.

        Raises
        ------
        CareError
            It is broken.
        """
        import pyarrow as pa
        from pyarrow import parquet

        try:
            self._file = parquet.ParquetFile(file)
        except (pa.ArrowException, OSError) as cause:
            raise CareError(f"{file}: not a whole Parquet file: {' '.join(str(cause).split())}") from None
        super().__init__(str(file), self._file.schema_arrow.names, self._file.metadata.num_rows)

    def batches(self, columns: list[str]) -> Iterable[pa.RecordBatch]:
        """Return the batches of some columns."""
        return self.some_batches(columns, None)

    def some_batches(self, columns: list[str], groups: list[int] | None) -> Iterable[pa.RecordBatch]:
        """Return the batches of some columns of some row groups, by default of all."""
        found = self._file.iter_batches(_BATCH, row_groups=groups, columns=columns)
        return cast("Iterable[pa.RecordBatch]", found)

    def groups(self, selection: Selection) -> Iterator[tuple[int, int, int]]:
        """Yield 1, the rows, and the bytes of the needed columns before compression, of each row group."""
        needed = set(selection.columns(self.names, self.name))
        for number in range(self._file.num_row_groups):
            group = self._file.metadata.row_group(number)
            found = (group.column(i) for i in range(group.num_columns))
            size = sum(c.total_uncompressed_size for c in found if c.path_in_schema.split(".")[0] in needed)
            yield 1, group.num_rows, size


class Saved(ColumnFile):
    """A folder that ``datasets.Dataset.save_to_disk`` wrote: Arrow streams, which need no other library."""

    def __init__(self, folder: Path) -> None:
        """Open a folder.

        Raises
        ------
        CareError
            A file of it is missing or broken.
        """
        import pyarrow as pa

        state = read_json(folder / STATE, "the folder of a data set has one")
        try:
            self.files = [folder / entry["filename"] for entry in state["_data_files"]]
        except (KeyError, TypeError):
            raise CareError(f"{folder / STATE}: lists no data files; save the data set again") from None
        self._tables = []
        for file in self.files:
            try:
                with pa.memory_map(str(file)) as mapped:
                    self._tables.append(pa.ipc.open_stream(mapped).read_all())
            except (pa.ArrowException, OSError) as cause:
                raise CareError(f"{file}: cannot be read: {' '.join(str(cause).split())}") from None
        names = self._tables[0].schema.names if self._tables else []
        super().__init__(str(folder), names, sum(table.num_rows for table in self._tables))

    def batches(self, columns: list[str]) -> Iterable[pa.RecordBatch]:
        """Return the batches of some columns."""
        return self.some_batches(columns, 0, self.total)

    def some_batches(self, columns: list[str], start: int, stop: int) -> Iterator[pa.RecordBatch]:
        """Yield the batches of some columns of rows ``start`` to ``stop``."""
        for table in self._tables:
            here = slice(max(start, 0), max(min(stop, len(table)), 0))
            if here.start < here.stop:
                some = table.select(columns).slice(here.start, here.stop - here.start)
                yield from some.to_batches(max_chunksize=_BATCH)
            start, stop = start - len(table), stop - len(table)

    def batch_sizes(self, selection: Selection) -> Iterator[tuple[int, int]]:
        """Yield rows and bytes of each batch of the needed columns."""
        for batch in self.batches(selection.columns(self.names, self.name)):
            yield batch.num_rows, batch.nbytes


class Hub(ColumnFile):
    """A data set of the Hugging Face hub, downloaded whole by the library ``datasets``, which keeps it."""

    def __init__(self, name: str) -> None:
        """Open a data set.

        Parameters
        ----------
        name : str
            ``owner/name``, ``owner/name:configuration`` or ``owner/name:configuration:split``; a revision may follow the name,
            as in ``owner/name@main``.

        Raises
        ------
        CareError
            The library is missing, or the data set, its configuration or split.
        """
        try:
            import datasets
        except ModuleNotFoundError:
            raise CareError(
                f"hf:{name}: data sets of the hub need the package datasets: pip install datasets"
            ) from None

        path, configuration, split = (*name.split(":"), "", "")[:3]
        path, _, revision = path.partition("@")
        try:
            found: Any = datasets.load_dataset(path, configuration or None, revision=revision or None)
        except Exception as cause:  # the library's, the hub's and the network's own errors
            raise CareError(f"hf:{name}: cannot be loaded: {' '.join(str(cause).split())}") from None
        if split not in found and (split or len(found) != 1):
            raise CareError(
                f"hf:{name}: say which split, as in hf:{path}:{configuration}:{next(iter(found))}; there are: "
                + ", ".join(found)
            )
        self._data = found[split or next(iter(found))]
        super().__init__(f"hf:{name}", list(self._data.column_names), len(self._data))

    def batches(self, columns: list[str]) -> Iterable[pa.Table]:
        """Return the batches of some columns."""
        return cast(
            "Iterable[pa.Table]", self._data.select_columns(columns).with_format("arrow").iter(_BATCH)
        )
