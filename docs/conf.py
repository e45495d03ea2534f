"""The documentation's site: Sphinx over the Markdown files of this folder, and over those beside it.

Every page is a file that GitHub shows as well, so links are written as GitHub follows them. What lies outside this folder
becomes a page (`PAGES`), or a download.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

from sphinx.search.zh import SearchChinese  # noqa: E402

from care_accel import __version__  # noqa: E402

project = "care_accel"
author = "The care_accel maintainers"
copyright = author
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "numpydoc"]
exclude_patterns = ["_build", "README.md", "search.md"]  # the site has a search of its own under that name
suppress_warnings = ["myst.header"]  # a card begins with front matter
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]

# Signatures and docstrings are read from the package itself. What it would import is not needed for that.
autodoc_mock_imports = [
    name
    for name in (
        *("care_accel._native", "torch", "transformers", "tokenizers", "safetensors", "huggingface_hub"),
        *("lance", "pyarrow", "bm25s", "mteb", "datasets", "scipy", "pytrec_eval", "sentence_transformers"),
        *(
            "peft",
            "openai",
            "yaml",
            "tritonclient",
            "starlette",
            "uvicorn",
            "prometheus_client",
            "datasketch",
        ),
    )
    if importlib.util.find_spec(name) is None
]
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # numpydoc's sections name them
autodoc_class_signature = "mixed"
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

html_theme = "furo"
html_title = f"care_accel {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_favicon = "_static/favicon.svg"
html_search_language = "zh"
html_copy_source = False
html_show_sphinx = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b6b63", "color-brand-content": "#0b6b63"},
    "dark_css_variables": {"color-brand-primary": "#4fc9ba", "color-brand-content": "#4fc9ba"},
}
pygments_style = "tango"
pygments_dark_style = "github-dark"

# Pages whose text is that of a file elsewhere.
PAGES = {
    "index": "README.md",
    "index.zh-CN": "README.zh-CN.md",
    "exact-search": "docs/search.md",
    "contributing": "CONTRIBUTING.md",
    "changelog": "CHANGELOG.md",
    "security": "SECURITY.md",
    "care-mini": "care_accel/assets/care-mini/README.md",
    "care-demo": "care_accel/assets/care-demo/README.md",
}
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
_CODE = re.compile(r"(^```.*?^```|`[^`\n]*`)", re.MULTILINE | re.DOTALL)


def moved_links(text: str, file: Path, page: Path) -> str:
    """Return the text of a file as a page of the site has it: links from there.

    Parameters
    ----------
    text : str
        Markdown.
    file : Path
        Where the text is, from which its links are relative.
    page : Path
        Where it is shown.
    """
    sources = {(ROOT / source).resolve(): HERE / f"{name}.md" for name, source in PAGES.items()}
    sources[HERE / "README.md"] = HERE / "index.md"

    def moved(match: re.Match[str]) -> str:
        image, label, target = match.groups()
        place, hash_sign, heading = target.partition("#")
        if not place or re.match(r"[a-z]+:", target):
            return match[0]
        there = (file.parent / place).resolve()
        there = sources.get(there, there)
        if there.is_dir() or not there.exists():  # a folder has no page; a file that is missing is reported
            return label if there.is_dir() else match[0]
        return f"{image}[{label}]({os.path.relpath(there, page.parent)}{hash_sign}{heading})"

    return "".join(
        part if _CODE.fullmatch(part) else _LINK.sub(moved, part) for part in _CODE.split(text) if part
    )


def read_source(app: Any, name: str, source: list[str]) -> None:
    """Put the text of other files into their pages, and mend the links that leave the folder."""
    page = HERE / f"{name}.md"
    if name == "reference/commands":
        source[0] += commands()
    elif name in PAGES:
        file = ROOT / PAGES[name]
        app.env.note_dependency(str(file))
        _, fence, trees = source[0].partition("```{toctree}")  # of the home page
        source[0] = moved_links(file.read_text(encoding="utf-8"), file, page) + "\n" + fence + trees
    else:
        source[0] = moved_links(source[0], page, page)


def commands() -> str:
    """Return the help of every verb of the command line."""
    from care_accel.cli import make_parser

    os.environ["COLUMNS"] = "100"  # argparse breaks lines there
    return "\n".join(f"\n## {name}\n\n```text\n{text}```\n" for name, text in helps(make_parser()))


def helps(parser: argparse.ArgumentParser) -> list[tuple[str, str]]:
    """Return the names and the help of a parser's commands, those below them included."""
    found = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                found += [(one.prog, one.format_help()), *helps(one)]
    return found


def page_language(app: Any, name: str, template: str, context: dict[str, Any], tree: Any) -> None:
    """Name the language of a page, for fonts, hyphenation and screen readers."""
    if name.endswith("zh-CN"):
        context["language"] = "zh-CN"


class Search(SearchChinese):
    """Search in both languages: pages are cut with jieba, English is stemmed, and queries are cut as the pages were.

    Sphinx's own names a stemmer ``ChineseStemmer`` that there is not, which ends every search (Sphinx 9.0), and does not cut
    Chinese queries.
    """

    language_name = "English"  # whose stemmer it is
    js_splitter_code = (HERE / "split_query.js").read_text(encoding="utf-8")


def setup(app: Any) -> None:
    """Connect the above."""
    app.add_search_language(Search)
    app.connect("source-read", read_source)
    app.connect("html-page-context", page_language)
