import json
import os
import subprocess
import sys

import numpy as np
import pytest

from care_accel.errors import CareError
from care_accel.serving.backend.tensors import (
    MAX_TEXT_BYTES,
    Backend,
    in_reach,
    read_parameters,
    read_tasks,
    read_texts,
    resolve,
    split,
)


def tensor(*raw):
    return np.array([[one] for one in raw], dtype=object)


def test_texts_are_read_as_utf_8():
    assert read_texts(tensor("高血压".encode(), b"a"), empty=False) == ["高血压", "a"]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "TEXT 1 is empty"),
        (b"a\xe9\xab", "TEXT 1 is not UTF-8 at byte 1"),
        (b"\xed\xa0\x80", "TEXT 1 is not UTF-8 at byte 0"),
        (b"x" * (MAX_TEXT_BYTES + 1), "TEXT 1 has 100,001 bytes; at most 100,000"),
    ],
)
def test_a_text_that_cannot_be_taken_is_named_by_its_place_and_not_quoted(raw, message):
    with pytest.raises(CareError, match=message) as refused:
        read_texts(tensor(b"secret", raw), empty=False)
    assert "secret" not in str(refused.value)


def test_an_empty_document_is_a_text():
    assert read_texts(tensor(b""), empty=True) == [""]


def test_the_longest_text_is_taken():
    assert len(read_texts(tensor(b"x" * MAX_TEXT_BYTES), empty=False)[0]) == MAX_TEXT_BYTES


def test_the_task_is_retrieval_where_none_is_given():
    assert read_tasks(None, 2) == ["retrieval"] * 2
    assert read_tasks(tensor(b"sts", b"reranking"), 2) == ["sts", "reranking"]


@pytest.mark.parametrize("raw", [b"dance", b"", b"\xff", b"STS"])
def test_a_task_that_there_is_not_is_refused(raw):
    with pytest.raises(CareError, match=r"TASK 1 is .*; it must be one of retrieval, reranking, sts"):
        read_tasks(tensor(b"sts", raw), 2)


def test_parameters_are_json_but_for_the_server_s_own():
    values = {"care": '{"width": 3}', "background": "true", "FORCE_CPU_ONLY_INPUT_TENSORS": "no"}
    config = {"parameters": {name: {"string_value": value} for name, value in values.items()}}
    assert read_parameters(json.dumps(config)) == {"care": {"width": 3}, "background": True}


def test_a_relative_path_starts_at_the_repository(tmp_path):
    assert resolve("index", str(tmp_path / "scan")) == tmp_path / "index"
    assert resolve("/somewhere", str(tmp_path / "scan")).as_posix() == "/somewhere"


def test_what_was_computed_together_is_cut_into_each_request_s_part():
    values = np.arange(6)
    assert [part.tolist() for part in split(values, [2, 1, 3])] == [[0, 1], [2], [3, 4, 5]]


@pytest.mark.parametrize("whole", [False, True])
def test_a_folder_with_a_chinese_name_is_in_reach_of_a_python_in_the_c_locale(tmp_path, whole):
    folder = tmp_path / "模型 'a'" / "inner"
    folder.mkdir(parents=True)
    (folder / "file").write_text("found")
    (tmp_path / "links").mkdir()
    code = (
        "import json, sys; from pathlib import Path; from care_accel.serving.backend.tensors import in_reach, reachable\n"
        "folder, links, whole = json.loads(sys.stdin.read())\n"
        "assert not reachable(Path(folder)) and reachable(Path(links))\n"
        "place = in_reach(Path(folder), links, whole=whole)\n"
        "print((place.resolve() if whole else place) / 'inner', (place / 'inner' / 'file').read_text())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps([str(folder.parent), str(tmp_path / "links"), whole]),
        env=os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.isascii(), done.stderr
    assert done.stdout.endswith("inner found\n"), done.stderr
    assert in_reach(tmp_path / "没有", tmp_path / "links") == tmp_path / "没有"


def test_counters_and_numbers_are_on_the_metrics_page(monkeypatch):
    from ..python_backend import PythonBackend

    server = PythonBackend()
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", server)
    backend = Backend(server.arguments("scan", {}))
    counted, measured = backend.counter("queries", "Queries"), [0.5]
    backend.gauge("recall", "Recall", lambda: measured[0])
    counted.add(3)
    backend._report()
    assert server.metrics["care_recall", "scan", ""] == 0.5
    measured[0] = 0.25
    counted.add(2)
    backend.end()
    assert server.metrics["care_recall", "scan", ""] == 0.25
    assert server.metrics["care_queries_total", "scan", ""] == 5
