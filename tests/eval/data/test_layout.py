import json

import pyarrow as pa
import pytest
from pyarrow import parquet

from care_accel.errors import CareError
from care_accel.eval.data.layout import find_parts, one_split, set_name
from care_accel.eval.folder import find_sets

CORPUS = [{"_id": f"d{i}", "title": "", "text": f"文{i}"} for i in range(3)]
QUERIES = [{"_id": "q0", "text": "问"}]
QRELS = [{"query-id": "q0", "corpus-id": "d0", "score": 1}]
RANKED = [{"query-id": "q0", "corpus-ids": ["d0", "d2"]}]
LISTS = [{"query": "问", "positive": ["甲"], "negative": ["乙"]}]
PAIRS = [{"sentence1": "一", "sentence2": "二", "score": i} for i in range(2)]


def write(folder, files):
    """Write Parquet or JSON lines by relative path, and text as it is; return the folder."""
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            file.write_text(content, encoding="utf-8")
        elif name.endswith(".parquet"):
            parquet.write_table(pa.Table.from_pylist(content), file)
        else:
            file.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
    return folder


def names(parts, root):
    return {
        part: {split: [str(file.relative_to(root)) for file in files] for split, files in splits.items()}
        for part, splits in parts.items()
    }


README = """---
language: [zh]
configs:
- config_name: corpus
  data_files:
  - split: dev
    path: corpus/dev-*
- config_name: default
  data_files:
  - split: dev
    path: data/dev-*
- config_name: queries
  data_files: [{split: dev, path: [queries/dev-*]}]
- config_name: top_ranked
  data_files: {dev: ranked.jsonl}
- config_name: instruction
  data_files: [{split: dev, path: other/dev-*}]
---
# A data set
"""


def test_the_readme_of_a_hub_data_set_says_where_its_parts_are(tmp_path):
    folder = write(
        tmp_path,
        {
            "README.md": README,
            "corpus/dev-00000-of-00002.parquet": CORPUS[:2],
            "corpus/dev-00001-of-00002.parquet": CORPUS[2:],
            "queries/dev-00000-of-00001.parquet": QUERIES,
            "data/dev-00000-of-00001.parquet": QRELS,
            "ranked.jsonl": RANKED,
        },
    )
    assert names(find_parts(folder), folder) == {
        "corpus": {"dev": ["corpus/dev-00000-of-00002.parquet", "corpus/dev-00001-of-00002.parquet"]},
        "queries": {"dev": ["queries/dev-00000-of-00001.parquet"]},
        "qrels": {"dev": ["data/dev-00000-of-00001.parquet"]},
        "top_ranked": {"dev": ["ranked.jsonl"]},
    }
    (one,) = find_sets(folder)
    assert (one.kind, one.splits) == ("reranking", ["dev"])
    data = one.read("dev")
    assert data.candidates == {"q0": ["d0", "d2"]}
    assert len(data.documents) == 3


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        (
            {
                "corpus/dev-00000-of-00001.parquet": CORPUS,
                "queries/dev-00000-of-00001.parquet": QUERIES,
                "data/dev-00000-of-00001.parquet": QRELS,
            },
            "retrieval",
        ),
        (
            {
                "corpus/corpus-00000-of-00001.parquet": CORPUS,
                "queries/queries-00000-of-00001-0123abcd.parquet": QUERIES,
                "qrels/dev-00000-of-00001.parquet": QRELS,
            },
            "retrieval",
        ),
        ({"corpus.jsonl": CORPUS, "queries.jsonl": QUERIES, "qrels/dev.jsonl": QRELS}, "retrieval"),
        ({"corpus.parquet": CORPUS, "queries.parquet": QUERIES, "default/dev.jsonl": QRELS}, "retrieval"),
        (
            {
                "collection.tsv": "d0\t一\nd1\t二\nd2\t三\n",
                "queries.dev.tsv": "q0\t问\n",
                "queries.train.tsv": "q1\t问\n",
                "qrels.dev.tsv": "q0\t0\td0\t1\n",
                "notes.txt": "",
            },
            "retrieval",
        ),
        (
            {"data/dev-00000-of-00001-b3c1.parquet": LISTS, "README.md": "---\nlicense: mit\n---\n"},
            "reranking",
        ),
        ({"dev.jsonl": LISTS, "dataset_infos.json": "{}"}, "reranking"),
        ({"data/dev-00000-of-00001.parquet": PAIRS}, "sts"),
        ({"dev.parquet": PAIRS, "test.parquet": PAIRS}, "sts"),
    ],
)
def test_a_data_set_of_any_layout_is_found_and_read(tmp_path, files, kind):
    folder = write(tmp_path / "sets" / "one", files)
    for place in (folder, folder.parent):
        (found,) = find_sets(place)
        assert found.name == f"{kind}/one"
        assert "dev" in found.splits
        data = found.read("dev")
        assert (list(data.queries.values()) == ["问"]) if kind != "sts" else (data.scores == [0.0, 1.0])
        assert found.digest("dev") == found.digest("dev")


def test_a_kind_s_folder_takes_data_sets_of_the_hub_s_layout(tmp_path):
    write(tmp_path / "reranking" / "a", {"data/dev-00000-of-00001.parquet": LISTS})
    write(tmp_path / "sts" / "b", {"data/dev-00000-of-00001.parquet": PAIRS})
    assert [one.name for one in find_sets(tmp_path)] == ["reranking/a", "sts/b"]


def test_judgements_in_a_second_repository_are_found(tmp_path):
    write(
        tmp_path / "Cmedqa",
        {"data/corpus-00000-of-00001-ab.parquet": CORPUS, "data/queries-00000-of-00001-cd.parquet": QUERIES},
    )
    rows = [{"qid": "q0", "pid": "d1", "score": 1}]
    write(tmp_path / "Cmedqa-qrels", {"data/dev-00000-of-00001-ef.parquet": rows})
    (found,) = find_sets(tmp_path)
    assert found.name == "retrieval/Cmedqa"
    assert found.read("dev").relevant == {"q0": {"d1": 1}}


def cached(cache, name, files, revision="a" * 40, reference="main"):
    """Write a data set as the hub's cache holds it: blobs, and a snapshot of links to them."""
    root = cache / f"datasets--{name.replace('/', '--')}"
    blobs = write(root / "blobs", files)
    for file in files:
        link = root / "snapshots" / revision / file
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blobs / file)
    if reference:
        (root / "refs").mkdir(exist_ok=True)
        (root / "refs" / reference).write_text(revision)
    return root


def test_a_folder_of_the_hub_s_cache_stands_for_its_snapshot(tmp_path):
    files = {"data/dev-00000-of-00001.parquet": LISTS}
    root = cached(tmp_path, "mteb/T2", files)
    for folder in (root, root / "snapshots" / ("a" * 40), tmp_path):
        (found,) = find_sets(folder)
        assert found.name == "reranking/T2"
        assert set_name(found.folder) == "T2"
        assert found.read("dev").queries == {"q1": "问"}
    cached(tmp_path, "mteb/T2", {"data/test-00000-of-00001.parquet": LISTS}, revision="b" * 40, reference="")
    assert find_sets(root)[0].splits == ["dev"]
    (root / "refs" / "main").unlink()
    with pytest.raises(CareError, match="has 2 snapshots and none is named main"):
        find_sets(root)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"corpus/dev-00000-of-00003.parquet": CORPUS}, "corpus: 1 of 3 shards of dev are there; download"),
        (
            {"dev-00000-of-00001.parquet": LISTS, "dev-00000-of-00002.parquet": LISTS},
            "there are shards of two versions",
        ),
        (
            {"dev.jsonl": LISTS, "dev.parquet": LISTS},
            r"exists with and without .gz, or in another format \(dev",
        ),
        ({"corpus.jsonl": CORPUS, "collection.tsv": "d\t一\n"}, "in another format"),
        ({"README.md": "---\nconfigs: [\n---\n"}, "its front matter is not YAML"),
    ],
)
def test_what_cannot_be_the_whole_of_a_data_set_is_said(tmp_path, files, words):
    with pytest.raises(CareError, match=words):
        find_parts(write(tmp_path, files))


@pytest.mark.parametrize(
    "readme",
    [
        "",
        "# Plain",
        "---\n- 1\n---\n",
        "---\nconfigs: 1\n---\n",
        "---\nconfigs: [1, {config_name: corpus}]\n---\n",
    ],
)
def test_a_readme_that_describes_nothing_leaves_it_to_the_names(tmp_path, readme):
    folder = write(tmp_path, {"README.md": readme, "dev.jsonl": LISTS})
    assert list(find_parts(folder)) == ["rows"]


@pytest.mark.parametrize("path", ["", "/etc/*", "../*.jsonl", "https://host/x.jsonl", "[", 3, None])
def test_a_readme_names_files_of_its_own_folder_only(tmp_path, path):
    write(tmp_path, {"x.jsonl": LISTS})
    readme = f"---\nconfigs:\n- config_name: default\n  data_files: {json.dumps([{'split': 'a', 'path': path}])}\n---\n"
    folder = write(tmp_path / "set", {"README.md": readme, "dev.jsonl": LISTS})
    assert names(find_parts(folder), folder) == {"rows": {"dev": ["dev.jsonl"]}}


def test_a_readme_that_describes_a_part_only_hides_nothing(tmp_path):
    readme = "---\nconfigs: [{config_name: default, data_files: train.jsonl}]\n---\n"
    files = {"corpus.jsonl": CORPUS, "queries.jsonl": QUERIES, "qrels/dev.jsonl": QRELS, "train.jsonl": LISTS}
    (found,) = find_sets(write(tmp_path, {"README.md": readme, **files}))
    assert found.read("dev").relevant == {"q0": {"d0": 1}}


def test_a_part_with_one_split_serves_all(tmp_path):
    assert one_split({"corpus": [tmp_path]}, "dev") == [tmp_path]
    assert one_split({"dev": [tmp_path], "test": []}, "dev") == [tmp_path]
    assert one_split({"a": [tmp_path], "b": [tmp_path]}, "dev") == []


def test_a_folder_of_something_else_has_no_data_set(tmp_path):
    write(
        tmp_path, {"x/rows.jsonl": [{"a": 1}], "x/data/rows.parquet": [{"b": 1}], "LICENSE": "", "y.txt": ""}
    )
    with pytest.raises(CareError, match="no data set; put data sets in retrieval/"):
        find_sets(tmp_path)
