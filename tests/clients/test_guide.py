"""docs/integrations.md: its Python runs, in order, with what it asserts."""

import re
from pathlib import Path

import pytest

pytest.importorskip("langchain_openai", reason="needs LangChain's OpenAI package: make clients")
pytest.importorskip(
    "llama_index.embeddings.openai_like", reason="needs LlamaIndex's OpenAI package: make clients"
)
pytest.importorskip("haystack", reason="needs Haystack: make clients")

PAGE = Path(__file__).parents[2] / "docs" / "integrations.md"


def test_the_guide_does_what_it_says(gateway, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 8
    names = {}
    for code in blocks:
        exec(compile(code.replace("http://127.0.0.1:8080", gateway), str(PAGE), "exec"), names)
