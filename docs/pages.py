"""What the site's pages are made of; nothing of Sphinx is needed here.

Every page is a file that GitHub shows as well, so links are written as GitHub follows them. What lies outside this folder
becomes a page (`PAGES`), or a download.
"""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent

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
# Labels of the theme and captions of the menu, on pages in Chinese.
LABELS = {
    "Skip to content": "跳到正文",
    "Back to top": "回到页首",
    "On this page": "本页内容",
    "Search": "搜索",
    "Next": "下一页",
    "Previous": "上一页",
    "Home": "首页",
    "Made with": "网站由以下工具生成：",
    "Start": "开始",
    "Guides": "指南（英文）",
    "How it works": "原理（英文）",
    "Reference": "参考（英文）",
    "Measurements": "测量结果（英文）",
    "Project": "项目（英文）",
}
_CAPTION = re.compile('(?<=<span class="caption-text">)[^<]*')
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
        if re.fullmatch(r"[\w/.-]+\.md", label):  # a file's name on GitHub, the page's title here
            label = ""
        return f"{image}[{label}]({os.path.relpath(there, page.parent)}{hash_sign}{heading})"

    return "".join(
        part if _CODE.fullmatch(part) else _LINK.sub(moved, part) for part in _CODE.split(text) if part
    )


def in_chinese(menu: str) -> str:
    """Return the site's menu with Chinese captions; its pages keep their own titles."""
    return _CAPTION.sub(lambda caption: LABELS.get(caption[0], caption[0]), menu)


def commands() -> str:
    """Return the help of every verb of the command line."""
    from care_accel.cli import make_parser

    os.environ["COLUMNS"] = "90"  # argparse breaks lines there; as wide as a page
    return "\n".join(f"\n## {name}\n\n```text\n{text}```\n" for name, text in helps(make_parser()))


def helps(parser: argparse.ArgumentParser) -> list[tuple[str, str]]:
    """Return the names and the help of a parser's commands, those below them included."""
    found = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                found += [(one.prog, one.format_help()), *helps(one)]
    return found
