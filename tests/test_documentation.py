"""The documents: both languages say the same, and commands and programs in them are ones that there are."""

import contextlib
import doctest
import importlib
import io
import re
import shlex
import sys
from pathlib import Path

import pytest

import care_accel
from care_accel.cli import main, make_parser

ROOT = Path(__file__).parents[1]
PAIRS = [("README.md", "README.zh-CN.md"), ("docs/tutorial.md", "docs/tutorial.zh-CN.md")]
PAGES = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")})
_BLOCK = re.compile(r"^( *)```(\S*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def prose(text):
    return _BLOCK.sub("", text)


def headings(text):
    return [len(marks) for marks in re.findall(r"^(#+) ", prose(text), re.MULTILINE)]


def links(name):
    """Return the targets of a page; the pages of both languages count as one."""
    found = re.findall(r"\]\(([^()\s]+)\)", prose(read(name)))
    return sorted(target.replace(".zh-CN.md", ".md") for target in found)


def numbers(text):
    return set(re.findall(r"(?<![A-Za-z\d.])\d[\d.,]*\d(?![A-Za-z\d])", prose(text)))


def rows(text):
    """Return the number of cells in each row of the tables."""
    return [line.count(" |") for line in prose(text).splitlines() if line.startswith("|")]


@pytest.mark.parametrize(("english", "chinese"), PAIRS)
def test_both_languages_have_the_same_headings_commands_links_and_tables(english, chinese):
    one, other = read(english), read(chinese)
    assert headings(one) == headings(other)
    assert _BLOCK.findall(one) == _BLOCK.findall(other)
    assert links(english) == links(chinese)
    assert len(rows(one)) == len(rows(other))
    assert set(re.findall(r"`[^`\n]+`", prose(one))) == set(re.findall(r"`[^`\n]+`", prose(other)))
    assert numbers(one) == numbers(other)


def commands():
    """Yield the commands of this package in the code of all pages, with the page."""
    for page in PAGES:
        for _, kind, code in _BLOCK.findall(page.read_text(encoding="utf-8")):
            if kind in ("", "console", "sh"):
                for line in code.replace("\\\n", " ").splitlines():
                    text = re.sub(r"^\$ ", "", line.strip())
                    if re.match(r"care-accel [a-z]", text) and not re.search(r"[\[\]<>]|\.\.\.", text):
                        yield page, text


def test_every_command_in_the_documents_is_one_that_the_command_line_takes(capsys):
    wrong, count = [], 0
    for page, text in commands():
        count += 1
        try:
            make_parser().parse_args(shlex.split(text, comments=True)[1:])
        except (SystemExit, ValueError):
            wrong.append(f"{page.name}: {text}: {capsys.readouterr().err.splitlines()[-1:]}")
    assert wrong == []
    assert count > 50


@pytest.mark.slow
def test_the_tutorial_does_what_it_says(tmp_path, monkeypatch):
    """Its console and its Python; that both languages have the same is another test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    checker, ran = doctest.OutputChecker(), 0
    for _, kind, code in _BLOCK.findall(read("docs/tutorial.md")):
        if kind == "python":
            exec(compile(code, "docs/tutorial.md", "exec"), {})
        for step in re.split(r"^\$ ", code, flags=re.MULTILINE)[1:] if kind == "console" else ():
            command, _, rest = step.partition("\n")
            if file := re.fullmatch(r"cat > (\S+) <<END", command):
                fed = re.findall(r"^> (.*\n)", rest, re.MULTILINE)
                Path(file[1]).write_text("".join(fed[:-1]), encoding="utf-8")
                continue
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                assert main(shlex.split(command)[1:]) == 0
            found = printed.getvalue()
            assert checker.check_output(rest, found, doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE), found
            ran += 1
    assert ran == 3


def test_the_site_has_every_page():
    """What is in no table of contents is not found by a reader."""
    text = read("docs/index.md")
    trees = re.findall(r"^```\{toctree\}\n(?::[^\n]*\n)*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    listed = [line.split("<")[-1].rstrip(">") for line in "".join(trees).split("\n") if line]
    assert len(listed) == len(set(listed))
    pages = {str(file.relative_to(ROOT / "docs")).removesuffix(".md") for file in ROOT.glob("docs/**/*.md")}
    # The home page itself; the list of pages for GitHub; a page that has another name on the site.
    assert pages - {"index", "README", "search"} == set(listed)


def test_every_page_is_in_the_list_on_github():
    text = read("docs/README.md")
    stubs = {
        "index",
        "index.zh-CN",
        "exact-search",
        "contributing",
        "changelog",
        "security",
        "care-mini",
        "care-demo",
    }
    pages = {file.stem for file in ROOT.glob("docs/*.md")} - {"README"} - stubs
    assert {page for page in pages if f"({page}.md)" not in text} == set()


@pytest.fixture
def pages(monkeypatch):
    """Return the module that makes the site's pages."""
    monkeypatch.syspath_prepend(ROOT / "docs")
    monkeypatch.setenv("COLUMNS", "100")  # which it sets
    monkeypatch.delitem(sys.modules, "pages", raising=False)
    return importlib.import_module("pages")


@pytest.mark.parametrize(
    ("link", "moved"),
    [
        ("[a](docs/search.md#measured)", "[a](exact-search.md#measured)"),
        ("[docs/evaluation.md](docs/evaluation.md)", "[](evaluation.md)"),
        ("[中文](README.zh-CN.md)", "[中文](index.zh-CN.md)"),
        ("[all](docs/README.md)", "[all](index.md)"),
        ("[card](care_accel/assets/care-mini/README.md)", "[card](care-mini.md)"),
        ("![b](docs/images/accuracy-latency.svg)", "![b](images/accuracy-latency.svg)"),
        ("[recipe](care_accel/training/recipe.py)", "[recipe](../care_accel/training/recipe.py)"),
        ("[folder](model_repository)", "folder"),
        (
            "[elsewhere](https://example.org/docs/search.md)",
            "[elsewhere](https://example.org/docs/search.md)",
        ),
        ("[here](#status)", "[here](#status)"),
        ("[lost](docs/none.md)", "[lost](docs/none.md)"),
        ("`[code](docs/search.md)`", "`[code](docs/search.md)`"),
    ],
)
def test_links_of_the_readme_lead_to_pages_of_the_site(pages, link, moved):
    assert pages.moved_links(link, ROOT / "README.md", ROOT / "docs" / "index.md") == moved


def test_every_caption_of_the_menu_has_a_chinese_one(pages):
    captions = re.findall(r"^:caption: (.*)", read("docs/index.md"), re.MULTILINE)
    assert captions
    for caption in captions:
        shown = pages.in_chinese(f'<span class="caption-text">{caption}</span><a>{caption}</a>')
        assert shown == f'<span class="caption-text">{pages.LABELS[caption]}</span><a>{caption}</a>'
        assert not shown.isascii()


def test_the_site_has_the_help_of_every_verb(pages):
    text = pages.commands()
    verbs = next(action for action in make_parser()._actions if action.choices).choices
    for verb in verbs:
        assert f"\n## care-accel {verb}\n" in text
    assert "\n## care-accel curate judge\n" in text


def test_the_reference_has_every_public_name():
    text = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "docs/reference").glob("*.md"))
    documented = {
        name.rpartition(".")[2] for name in re.findall(r"^\.\. auto\w+:: (\S+)", text, re.MULTILINE)
    }
    assert set(care_accel.__all__) <= documented
