import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from care_accel.collection.commands.snippet import snippet

MARKED = "bold yellow"


def marked(text):
    return "".join(text.plain[span.start : span.end] for span in sorted(text.spans) if span.style == MARKED)


def test_what_matches_is_marked():
    assert marked(snippet("高血压患者血压高", "血压高怎么办", 80)) == "血压血压高"
    assert marked(snippet("Take ASPIRIN daily", "aspirin 100mg", 80)) == "ASPIRIN"
    assert marked(snippet("ＡＢＣ类", "abc", 80)) == "ＡＢＣ"
    assert marked(snippet("痛", "痛", 80)) == "痛"
    assert marked(snippet("别的", "", 80)) == ""


def test_a_terminal_obeys_nothing_in_a_text():
    assert snippet("a\x1b[31mred\x07 \x9b2J\nb", "red", 80).plain == "a\ufffd[31mred\ufffd \ufffd2J b"
    assert marked(snippet("\x1b[31mred", "red", 80)) == "red"


def test_the_part_with_most_matches_is_shown():
    text = "无关的话。" * 40 + "糖尿病患者要控制血糖。" + "还有别的。" * 40
    shown = snippet(text, "糖尿病血糖", 40)
    assert "糖尿病患者要控制血糖" in shown.plain
    assert shown.plain.startswith("…")
    assert shown.plain.endswith("…")
    assert marked(shown) == "糖尿病血糖"


@pytest.mark.parametrize("text", ["短", "a b\n c\t", ""])
def test_short_texts_are_shown_whole(text):
    assert snippet(text, "b", 40).plain == " ".join(text.split())


@given(text=st.text(max_size=200), query=st.text(max_size=12), width=st.integers(8, 60))
def test_a_line_never_is_wider_than_asked(text, query, width):
    assert cell_len(snippet(text, query, width).plain) <= width
