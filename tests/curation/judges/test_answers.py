import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from care_accel.curation.judges.answers import parse_answer
from care_accel.curation.judges.prompting import load_prompt

SCHEMA = load_prompt("relevance-v1", ("query", "document")).schema
FOUR = '{"reason": "好", "grade": 4}'


@pytest.mark.parametrize(
    "raw",
    [
        FOUR,
        f"\n {FOUR}\n\n",
        f"```json\n{FOUR}\n```",
        f"```\n{FOUR}\n```",
        '{"reason": "好", "grade": 4, "extra": {"grade": 1}}',
        '{"reason": "好", "grade": 4.0}',
        f"\ufeff{FOUR}",
        f"<think>\n文档说的是 {{剂量}}，给 1 分？\n</think>\n\n{FOUR}",
        f"<think></think>{FOUR}",
        f'<think>先说 {{"grade": 1}}</think>\n```json\n{FOUR}\n```',
        f"\ufeff<think>想</think>\ufeff{FOUR}",
        f"<thinking>想</thinking>{FOUR}",
        # The template of the chat has written the opening tag.
        f"先看疾病是否相同 {{一}}。\n</think>\n{FOUR}",
        f"我的评分如下：\n{FOUR}",
        f"评分：{FOUR}",
        f"评分如下：\n```json\n{FOUR}\n```\n",
    ],
)
def test_the_one_object_of_an_answer_is_read(raw):
    assert parse_answer(raw, SCHEMA) == ({"reason": "好", "grade": 4}, None)


def test_tags_inside_the_object_are_text():
    raw = '{"reason": "提到 </think> 和 <think>", "grade": 4}'
    assert parse_answer(raw, SCHEMA)[0]["grade"] == 4


def test_an_answer_without_its_reason_says_its_grade():
    assert parse_answer('{"grade": 2}', SCHEMA) == ({"grade": 2}, None)


@pytest.mark.parametrize(
    ("raw", "wrong"),
    [
        ("", "it is empty"),
        (" \ufeff ", "it is empty"),
        ("<think>想</think>\n", "it is empty"),
        ("四分", "it is not JSON"),
        ("{四分}", "it is not JSON"),
        ('{"reason": "好", "grade": 4', "it is not JSON"),
        ("[" * 100_000, "it is not JSON"),
        ("[4]", "it is not a JSON object"),
        (f"[{FOUR}]", "it is not a JSON object"),
        ("4", "it is not a JSON object"),
        (FOUR + '{"reason": "好", "grade": 5}', "it has more than one JSON object"),
        (f"{FOUR}\n\n{FOUR}", "it has more than one JSON object"),
        (f"```json\n{FOUR}\n```\n```json\n{FOUR}\n```", "it has more than one JSON object"),
        (f"{FOUR}\n以上。", "there are words after the JSON object"),
        ('{"reason": "好", "grade": 4, "grade": 5}', "a name is there twice"),
        (f"<think>{FOUR}", "its thinking has no end"),
        (f"<think>一</think><think>二{FOUR}", "its thinking has no end"),
        (f"评分是{'很' * 200}高：{FOUR}", "there is more than a short line of words before the JSON object"),
        (f"评分 [1] 如下：{FOUR}", "there is more than a short line of words before the JSON object"),
        ('{"reason": "好"}', "grade is missing"),
        ('{"reason": "好", "grade": "4"}', "grade is not an integer"),
        ('{"reason": "好", "grade": true}', "grade is not an integer"),
        ('{"reason": "好", "grade": null}', "grade is not an integer"),
        ('{"reason": "好", "grade": 3.5}', "grade is not an integer"),
        ('{"reason": "好", "grade": 1e999}', "grade is not an integer"),
        ('{"reason": "好", "grade": NaN}', "grade is not an integer"),
        ('{"reason": "好", "grade": 0}', "grade is none of [1, 2, 3, 4, 5]"),
        ('{"reason": "好", "grade": 9.0}', "grade is none of [1, 2, 3, 4, 5]"),
        ('{"reason": 1, "grade": 4}', "reason is not a string"),
    ],
)
def test_an_answer_that_says_nothing_for_certain_is_none(raw, wrong):
    assert parse_answer(raw, SCHEMA) == (None, wrong)


@given(st.text(), st.integers(1, 5), st.text())
@settings(deadline=None)
def test_a_whole_object_is_read_whatever_its_reason_says(reason, grade, thought):
    answer = {"reason": reason, "grade": grade}
    assert parse_answer(json.dumps(answer), SCHEMA) == (answer, None)
    assert parse_answer(f"<think>{thought}</think>{json.dumps(answer)}", SCHEMA) == (answer, None)
