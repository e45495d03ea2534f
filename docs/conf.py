"""The documentation's site: Sphinx over the Markdown files of this folder, and over those beside it (`pages`)."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(HERE)]

from pages import LABELS, PAGES, commands, in_chinese, moved_links  # noqa: E402
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
highlight_language = "text"  # commands, mostly

# Signatures and docstrings are read from the package itself. What it would import is not needed for that.
_IMPORTED = """
care_accel._native torch transformers tokenizers safetensors huggingface_hub lance pyarrow bm25s mteb datasets scipy pytrec_eval
sentence_transformers peft openai yaml tritonclient starlette uvicorn prometheus_client datasketch
langchain_core llama_index haystack
"""
autodoc_mock_imports = [name for name in _IMPORTED.split() if importlib.util.find_spec(name) is None]
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


def page_language(app: Any, name: str, template: str, context: dict[str, Any], tree: Any) -> None:
    """Name the language of a page, for fonts, hyphenation and screen readers, and have its menus in this language."""
    if name.endswith("zh-CN"):
        context["language"] = "zh-CN"
        # The theme has no Chinese of its own, and Sphinx has one language a site: its templates ask this for their labels.
        context["gettext"] = lambda text: LABELS.get(text.strip(), text)
        context["furo_navigation_tree"] = in_chinese(context["furo_navigation_tree"])


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
    app.connect("html-page-context", page_language, priority=900)  # after the theme has made its menu
