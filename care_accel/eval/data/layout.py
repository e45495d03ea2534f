"""Finds the files of a data set: in the layout of BEIR, of mteb's data sets on the hub, or of MS MARCO."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from care_accel.errors import CareError
from care_accel.eval.data.rows import JSON_LINES, PACKED, PARQUET, TABLES, ending

# Files by part and split: of a retrieval set the parts are corpus, queries, qrels and perhaps top_ranked; of a set of rows, "rows".
Parts = dict[str, dict[str, list[Path]]]

_REFERENCE, _SNAPSHOTS = "main", "snapshots"
_CACHED = "datasets--"
_README = "README.md"
_QRELS_REPOSITORY = "-qrels"
# Names of configurations, or of folders and files, of each part.
_PARTS = {
    "corpus": "corpus",
    "collection": "corpus",
    "queries": "queries",
    "query": "queries",
    "qrels": "qrels",
    "top_ranked": "top_ranked",
    "default": "rows",
    "data": "rows",
}
_ROWS = (".jsonl", ".ndjson", *PARQUET)
_SHARD = re.compile(r"(?P<split>.+?)-(?P<number>\d{5})-of-(?P<count>\d{5})(?:-[0-9a-f]+)?")


def find_parts(folder: Path) -> Parts:
    """Return the files of a data set's folder by part and split; empty if it has none that are known.

    Parameters
    ----------
    folder : Path
        Or a folder of the hub's cache (``datasets--owner--name``), of which the snapshot is taken that ``main`` means.

    Raises
    ------
    CareError
        Two files are the same part, shards are missing, or the README's description cannot be read.
    """
    root = snapshot(folder)
    found, named = _described(root), _named(root)
    # Also where a README describes a part of the files only.
    if not found or ("corpus" in named and "corpus" not in found):
        found = named
    if "corpus" not in found or "queries" not in found:
        # C-MTEB's own sets have corpus and queries as splits of one configuration.
        splits = found.get("rows", {})
        if {"corpus", "queries"} <= splits.keys():
            found = {**found, **{part: {part: splits.pop(part)} for part in ("corpus", "queries")}}
            if not splits:
                del found["rows"]
    if {"corpus", "queries"} <= found.keys() and not {"qrels", "rows"} & found.keys():
        # ... and the judgements in a second repository.
        beside = _plain_folder(folder)
        beside = beside.with_name(beside.name + _QRELS_REPOSITORY)
        if beside.is_dir():
            found["qrels"] = find_parts(beside).get("rows", {})
    if "corpus" in found and "rows" in found:  # mteb calls judgements the default configuration
        found["qrels"] = found.pop("rows")
    return found


def set_name(folder: Path) -> str:
    """Return the name of a data set: of its folder, without what the hub's cache puts around it."""
    name = _plain_folder(folder).name
    return name.rpartition("--")[2] if name.startswith(_CACHED) else name


def snapshot(folder: Path) -> Path:
    """Return the folder with the files: of a folder of the hub's cache the current snapshot, else the folder itself.

    Raises
    ------
    CareError
        There are several snapshots, and none is the current one.
    """
    snapshots = folder / _SNAPSHOTS
    if not snapshots.is_dir():
        return folder
    known = sorted(entry for entry in snapshots.iterdir() if entry.is_dir())
    reference = folder / "refs" / _REFERENCE
    if reference.is_file():
        current = snapshots / reference.read_text(encoding="utf-8").strip()
        if current in known:
            return current
    if len(known) != 1:
        raise CareError(
            f"{folder}: has {len(known)} snapshots and none is named main; give one of {snapshots}"
        )
    return known[0]


def one_split(splits: dict[str, list[Path]], split: str) -> list[Path]:
    """Return the files of a split, or of the only split there is, as mteb does; empty if there is no such."""
    return splits.get(split) or (next(iter(splits.values())) if len(splits) == 1 else [])


def check_all_shards(folder: Path) -> None:
    """Check that no shard of a download is missing, whatever its data is.

    Raises
    ------
    CareError
        One is.
    """
    groups: dict[tuple[Path, str], list[Path]] = {}
    for file in sorted(folder.rglob("*")):
        if match := _SHARD.fullmatch(_stem(file)):
            groups.setdefault((file.parent, match["split"]), []).append(file)
    for files in groups.values():
        _check_shards(files)


def _plain_folder(folder: Path) -> Path:
    folder = folder.absolute()
    return folder.parent.parent if folder.parent.name == _SNAPSHOTS else folder


def _described(folder: Path) -> Parts:
    """Return what the front matter of the README says, as the hub's data sets have it."""
    readme = folder / _README
    if not readme.is_file():
        return {}
    text = readme.read_text(encoding="utf-8", errors="replace")
    match = re.match(r"\ufeff?---\r?\n(.*?)\r?\n---", text, re.DOTALL)
    if not match:
        return {}
    import yaml

    try:
        values = yaml.safe_load(match[1])
    except yaml.YAMLError as cause:
        raise CareError(f"{readme}: its front matter is not YAML: {' '.join(str(cause).split())}") from None
    configs = values.get("configs") if isinstance(values, dict) else None
    found: Parts = {}
    for config in configs if isinstance(configs, list) else []:
        if not isinstance(config, dict):
            continue
        part = _PARTS.get(str(config.get("config_name")))
        if part is None:
            continue
        for split, patterns in _data_files(config.get("data_files")):
            if files := sorted({file for pattern in patterns for file in _matches(folder, pattern)}):
                _check_shards(files)
                found.setdefault(part, {})[split] = files
    return found


def _data_files(described: Any) -> list[tuple[str, list[str]]]:
    """Return splits and patterns of a configuration's ``data_files``: a name, a list of names, or names by split."""
    if isinstance(described, str):
        return [("train", [described])]
    if isinstance(described, dict):
        described = [{"split": split, "path": path} for split, path in described.items()]
    if not isinstance(described, list):
        return []
    if all(isinstance(entry, str) for entry in described):
        return [("train", described)]
    found = []
    for entry in described:
        if isinstance(entry, dict) and isinstance(path := entry.get("path"), str | list):
            paths = [path] if isinstance(path, str) else [one for one in path if isinstance(one, str)]
            found.append((str(entry.get("split", "train")), paths))
    return found


def _matches(folder: Path, pattern: str) -> list[Path]:
    """Return the files of a pattern, all below the folder: a README may say anything."""
    if ".." in Path(pattern).parts:
        return []
    try:
        return [file for file in folder.glob(pattern) if file.is_file()]
    except (ValueError, NotImplementedError):  # an empty pattern, an absolute path
        return []


def _named(folder: Path) -> Parts:
    """Return what the names of folders and files say."""
    found: Parts = {}
    loose: dict[str, list[Path]] = {}
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith((".", "_")):
            continue
        if entry.is_dir():
            if (part := _PARTS.get(entry.name)) is not None:
                endings = (*_ROWS, *TABLES) if part == "qrels" else _ROWS
                for file in sorted(entry.iterdir()):
                    if ending(file) in endings and file.is_file():
                        found.setdefault(part, {}).setdefault(_split(file), []).append(file)
            continue
        name, _, split = _stem(entry).partition(".")
        if name in _PARTS and ending(entry) in (*_ROWS, *TABLES):
            found.setdefault(_PARTS[name], {}).setdefault(split, []).append(entry)
        elif ending(entry) in _ROWS:
            loose.setdefault(_split(entry), []).append(entry)
    if loose and "corpus" not in found:
        found["rows"] = loose
    if "qrels" in found:
        found.pop("rows", None)
    for splits in found.values():
        for files in splits.values():
            _check_single(files)
            _check_shards(files)
    return found


def _stem(file: Path) -> str:
    name = file.name
    for packed in PACKED[1:]:
        name = name.removesuffix(packed)
    return name.removesuffix(ending(file)) if ending(file) in (*JSON_LINES, *PARQUET, *TABLES) else name


def _split(file: Path) -> str:
    stem = _stem(file)
    match = _SHARD.fullmatch(stem)
    return match["split"] if match else stem


def _check_shards(files: list[Path]) -> None:
    """Check that all shards of a split are there, where the files are shards."""
    counts = {int(shard["count"]) for file in files if (shard := _SHARD.fullmatch(_stem(file)))}
    if len(counts) > 1:
        raise CareError(f"{files[0].parent}: there are shards of two versions; remove those of one")
    if counts and len(files) != (count := counts.pop()):
        raise CareError(
            f"{files[0].parent}: {len(files)} of {count} shards of {_split(files[0])} are there; download the others"
        )


def _check_single(files: list[Path]) -> None:
    if len(files) > 1 and not all(_SHARD.fullmatch(_stem(file)) for file in files):
        raise CareError(
            f"{files[0]} exists with and without .gz, or in another format ({files[1].name}); remove one of them"
        )
