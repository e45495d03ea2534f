"""examples/: every program runs, on the embedded model."""

import asyncio
import csv
import json
import os
import runpy
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
PROGRAMS = sorted(file for file in EXAMPLES.iterdir() if file.suffix in (".py", ".mjs", ".sh"))
PAIRS = [
    ("高血压怎么治", "应低盐饮食，规律服用降压药。"),
    ("糖尿病吃什么", "要控制主食，监测血糖。"),
    ("感冒发热怎么办", "多饮水休息，必要时退热。"),
    ("骨折怎么处理", "先固定，再尽快拍片就医。"),
]


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Return a function that runs a Python program with arguments, in an empty folder, and returns what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def write_csv(file, header, rows):
    with file.open("w", encoding="utf-8-sig", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda file: file.name)
def test_a_program_is_short_and_says_how_it_is_called(program):
    text = program.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 60
    assert f"examples/{program.name}" in text[:600]


def test_a_page_lists_every_example():
    page = (EXAMPLES.parent / "docs" / "examples.md").read_text(encoding="utf-8")
    assert [file.name for file in EXAMPLES.iterdir() if f"(../examples/{file.name})" not in page] == []


@pytest.mark.slow
def test_a_model_is_evaluated_beside_bm25(run, tmp_path):
    folder = tmp_path / "data" / "retrieval" / "mine"
    (folder / "qrels").mkdir(parents=True)
    for name, column in (("queries", 0), ("corpus", 1)):
        rows = [{"_id": str(i), "title": "", "text": pair[column]} for i, pair in enumerate(PAIRS)]
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    labels = "".join(f"{i}\t{i}\t1\n" for i in range(len(PAIRS)))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + labels)
    printed = run("evaluate_model.py", "--data-dir", "data")
    assert "retrieval/mine: ndcg_at_10 of care-mini 100.0" in printed
    assert "retrieval/mine: ndcg_at_10 of bm25" in printed


def test_a_csv_file_is_indexed_once_and_searched(run, tmp_path):
    rows = [(f"a{i}", "", answer, "内科" if i < 2 else "外科") for i, (_, answer) in enumerate(PAIRS)]
    write_csv(tmp_path / "articles.csv", ("id", "title", "text", "department"), rows)
    printed = run("search_csv.py", "articles.csv", "血压高", "--filter", "department = '内科'")
    assert "4 new, 0 changed, 0 the same" in printed
    assert [line.split()[1] for line in printed.splitlines()[1:]] == ["a0", "a1"]
    assert "0 new, 0 changed, 4 the same" in run("search_csv.py", "articles.csv", "骨折")


@pytest.mark.slow
def test_pairs_train_a_model_folder(run, tmp_path):
    from care_accel import DualEncoder

    write_csv(tmp_path / "pairs.csv", ("question", "answer"), PAIRS)
    assert "eval --model mine/model" in run("train_on_pairs.py", "pairs.csv", "mine", "--batch-size", "4")
    trained = DualEncoder.from_pretrained(tmp_path / "mine" / "model")
    assert trained.encode_query("高血压怎么治").shape == (384,)
    assert trained.revision("query") != DualEncoder.from_pretrained("care-mini").revision("query")


def test_a_local_model_judges_what_answers_a_question(run, tmp_path):
    from .curation.conftest import chat_server

    folder = tmp_path / "mine"
    folder.mkdir()
    for name, column in (("queries", 0), ("corpus", 1)):
        rows = [{"_id": f"{name[0]}{i}", "text": pair[column]} for i, pair in enumerate(PAIRS)]
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    truth = {f"{question}\n{answer}": 1 for question, answer in PAIRS}
    with chat_server(tmp_path / "judge", {"truth": truth}) as judge:
        run("judge_locally.py", "mine", "--url", judge.url, "--model", "a", "b", "--pool", 2)
        asked = len(judge.events("asked"))
        run("judge_locally.py", "mine", "--url", judge.url, "--model", "a", "b", "--pool", 2)
        assert len(judge.events("asked")) == asked == 2 * 2 * len(PAIRS)
    labels = [line.split() for line in (tmp_path / "work" / "qrels.tsv").read_text().splitlines()[1:]]
    assert {
        query[1:] for query, document, grade in labels if grade == "1" and query[1:] == document[1:]
    } == set("0123")


@pytest.fixture(scope="module")
def gateway(care_server):
    """Return the address of a gateway in front of the real server."""
    import uvicorn

    from care_accel.encoding import AsyncServerClient
    from care_accel.serving.gateway import Settings
    from care_accel.serving.gateway.app import create_app
    from care_accel.serving.gateway.listener import listen, url_of

    started = threading.Event()
    with listen("127.0.0.1", 0) as sockets:
        app = create_app(Settings(rate=0.0), AsyncServerClient(care_server.grpc))
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, ws="none", lifespan="on"))

        async def main():
            started.set()
            await server.serve(sockets=sockets)

        thread = threading.Thread(target=lambda: asyncio.run(main()))
        thread.start()
        assert started.wait(10)
        yield url_of(sockets)
        server.should_exit = True
        thread.join(10)


@pytest.mark.server
def test_a_server_is_asked_from_python(run, care_server, gateway):
    printed = run("query.py", "血压高怎么办", "--server", care_server.grpc, "--gateway", gateway)
    assert "高血压" in printed
    assert len(printed.splitlines()) == 5


@pytest.mark.server
def test_a_server_is_asked_with_curl(gateway):
    done = subprocess.run(
        ["sh", EXAMPLES / "query.sh", "血压高怎么办", gateway], capture_output=True, text=True, check=True
    )
    hits, vector = map(json.loads, done.stdout.splitlines())
    assert len(hits["data"][0]["hits"]) == 3
    assert len(vector["data"][0]["embedding"]) == 4


@pytest.mark.server
def test_a_server_is_asked_from_javascript(request, gateway):
    """In Node where it is installed, else in a browser."""
    program = EXAMPLES / "query.mjs"
    if node := shutil.which("node"):
        done = subprocess.run(
            [node, program, "血压高怎么办", gateway],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "NO_PROXY": "127.0.0.1"},
        )
        assert len(done.stdout.splitlines()) == 3
        return
    browser = request.getfixturevalue("chromium")
    browser.open(f"{gateway}/")
    function = program.read_text(encoding="utf-8").split("export ", 1)[1].split("\n}\n", 1)[0]
    hits = browser.run(f"({function}\n}})({json.dumps(gateway)}, '血压高怎么办')")
    assert len(hits) == 3


@pytest.mark.slow
def test_the_notebook_s_cells_run_in_order(monkeypatch, tmp_path, capsys):
    """In one namespace, without a kernel: Jupyter's is tens of packages."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    notebook = json.loads((EXAMPLES / "quickstart.ipynb").read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    names = {}
    for number, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
    assert names["scores"].argmax(axis=1).tolist() == [0, 2]
    assert names["hit"].id == "a3"
    assert "a3" in capsys.readouterr().out
