from care_accel.cli import main


def test_the_page_is_written_where_it_was_asked_for(tmp_path, everything, capsys):
    results, bench = map(str, everything)
    output = tmp_path / "new" / "page.html"
    assert main(["report", "--results", results, "--bench", bench, "--output", str(output)]) == 0
    assert capsys.readouterr().out == f"written to {output}\n"
    assert output.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert list(output.parent.iterdir()) == [output]


def test_the_folders_are_those_that_the_others_write_to(tmp_path, everything, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bench").rename(tmp_path / "moved")
    (tmp_path / "bench").mkdir()
    (tmp_path / "moved").rename(tmp_path / "bench" / "results")
    assert main(["report"]) == 0
    assert "NVIDIA H100" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path, everything, capsys):
    results, bench = map(str, everything)
    asked = ["report", "--output", str(tmp_path / "page.html")]
    for arguments, words in (
        (["--results", str(tmp_path / "no"), "--bench", str(tmp_path / "no")], "nothing to report"),
        (["--results", results, "--bench", bench, "--machine", "mine"], "--machine mine"),
    ):
        assert main([*asked, *arguments]) == 2
        error = capsys.readouterr().err.strip()
        assert error.startswith("error: ")
        assert words in error
        assert "\n" not in error
    assert not (tmp_path / "page.html").exists()
