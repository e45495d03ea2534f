import gzip
import json
import os
import threading

import pytest

from care_accel import CareError
from care_accel.collection.sources import read_documents

LINE = '{"id": "%s", "text": "头痛"}\n'


def ids(*paths, **options):
    return [row["id"] for row in read_documents(paths, **options)]


def test_a_folder_in_beir_s_layout_is_its_corpus(tmp_path):
    (tmp_path / "corpus.jsonl.gz").write_bytes(gzip.compress((LINE % "a").encode()))
    (tmp_path / "queries.jsonl").write_text(LINE % "q")
    assert ids(tmp_path) == ["a"]


def test_the_files_of_a_folder_are_read_by_name_and_empty_parts_are_nothing(tmp_path):
    for name in ("part-2.jsonl", "part-1.jsonl", "part-3.jsonl"):
        (tmp_path / name).write_text(LINE % name if name != "part-3.jsonl" else "")
    for name in ("_part-0.jsonl", ".part.jsonl", "readme.txt"):
        (tmp_path / name).write_text("other")
    assert ids(tmp_path) == ["part-1.jsonl", "part-2.jsonl"]
    assert ids(tmp_path / "part-2.jsonl", tmp_path) == ["part-2.jsonl", "part-1.jsonl", "part-2.jsonl"]


def test_a_pipe_is_read_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=[LINE % "a"])
    writer.start()
    reader = read_documents(tmp_path / "pipe")
    assert reader.fraction() is None
    assert [row["id"] for row in reader] == ["a"]
    writer.join()


@pytest.mark.parametrize(
    ("files", "path", "words"),
    [
        ({}, "none.jsonl", "none.jsonl: no such file or folder; a data set of the Hugging Face hub is written hf:"),
        ({"a": b""}, "a", "a: is empty"),
        ({"a": gzip.compress(b"")}, "a", "a: is empty"),
        ({"a": b"\xef\xbb\xbf \n"}, "a", "a: is empty"),
        ({"a": b'[{"id": 1}]'}, "a", "one JSON list; write an object a line"),
        ({"a": "id,text\n".encode("utf-16")}, "a", "UTF-16; convert it"),
        ({"a": b"PK\x03\x04rest"}, "a", "a zip archive or a spreadsheet"),
        ({"a": b"\x7fELF\0\0"}, "a", "this is no text: it has zero bytes; what is read is JSON lines"),
        ({"a": b"\x1f\x8bbroken"}, "a", "a: cannot be read: "),
        ({"a": b"\x28\xb5\x2f\xfdbroken"}, "a", "a: cannot be read: "),
        ({"a": gzip.compress(b"PAR1")}, "a", "Parquet cannot be read in a compressed file"),
        ({"a.txt": b"text"}, "", "no documents in it: neither corpus.jsonl nor files that end in .jsonl"),
        ({"a.csv": b"id,text\n", "a.parquet": b""}, "", "has files of CSV and of Parquet; name those to read"),
        ({"corpus.jsonl": b"{}", "corpus.jsonl.gz": b""}, "", "exists with and without .gz"),
        ({"dataset_dict.json": b"{}", "train/state.json": b"{}"}, "", "with splits; name one of its folders: train"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_said_before_anything_is_read(tmp_path, files, path, words):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "good").write_text(LINE % "a")
    with pytest.raises(CareError) as error:
        read_documents([tmp_path / "good", tmp_path / path])
    assert words in str(error.value)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_nothing_and_standard_input_twice_are_refused():
    with pytest.raises(CareError, match="no documents are named"):
        read_documents([])
    with pytest.raises(CareError, match="standard input can be read once"):
        read_documents(["-", "-"])


def test_a_saved_data_set_is_read_whatever_its_number_of_files(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = [{"_id": str(i), "text": "头痛", "tags": ["a", "b"]} for i in range(5)]
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "saved", num_shards=2)
    reader = read_documents(tmp_path / "saved", fields="*")
    assert [row["id"] for row in reader] == list("01234")
    assert reader.place == f"{tmp_path / 'saved'}, row 5"
    assert reader.fraction() == 1
    (tmp_path / "saved" / "state.json").write_text("{}")
    with pytest.raises(CareError, match="lists no data files"):
        read_documents(tmp_path / "saved")
    (tmp_path / "saved" / "state.json").write_text(json.dumps({"_data_files": [{"filename": "none"}]}))
    with pytest.raises(CareError, match="none: cannot be read"):
        read_documents(tmp_path / "saved")


def test_a_data_set_of_the_hub_is_named_by_configuration_and_split(monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked = []

    def load(path, configuration, *, revision):
        asked.append((path, configuration, revision))
        if path == "o/none":
            raise FileNotFoundError("not\nthere")
        part = datasets.Dataset.from_list([{"_id": "a", "text": "头痛", "n": 1}])
        return datasets.DatasetDict({"corpus": part} if path == "o/one" else {"train": part, "test": part})

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert list(read_documents("hf:o/one", fields=["n"])) == [
        {"id": "a", "title": "", "text": "头痛", "n": 1}
    ]
    assert ids("hf:o/two@v1:zh:test") == ["a"]
    assert asked == [("o/one", None, None), ("o/two", "zh", "v1")]
    with pytest.raises(
        CareError, match="hf:o/two: say which split, as in hf:o/two::train; there are: train, test"
    ):
        read_documents("hf:o/two")
    with pytest.raises(CareError, match="hf:o/none: cannot be loaded: not there"):
        read_documents("hf:o/none")


def test_the_hub_needs_a_package_that_may_be_missing(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(CareError, match="hf:o/one: data sets of the hub need the package datasets"):
        read_documents("hf:o/one")
