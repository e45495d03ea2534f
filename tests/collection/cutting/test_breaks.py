import pytest

from care_accel.collection.cutting.breaks import Breaks


def pieces(text, limit=None):
    """Return the pieces of a text whose tokens are its characters; without a limit, its sentences."""
    breaks = Breaks(text, list(range(len(text))), limit or len(text))
    starts = [breaks.start_after(piece) for piece in range(-1, len(breaks.ends) - 1)]
    return [text[start:end] for start, end in zip(starts, breaks.ends, strict=True)]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("头痛三天。发烧！怎么办？吃药；休息……谢谢", ["头痛三天。", "发烧！", "怎么办？", "吃药；", "休息……", "谢谢"]),
        ("他说：“痛！”医生问（几天？）他答", ["他说：“痛！”", "医生问（几天？）", "他答"]),
        ("血压160/100。\n\n第二段\r\n第三段  ", ["血压160/100。", "第二段", "第三段"]),
        ("体温38.5度,每日3.0g.下午2:30复诊", ["体温38.5度,每日3.0g.下午2:30复诊"]),
        ("头痛怎么办?吃药!不行.去医院", ["头痛怎么办?", "吃药!", "不行.", "去医院"]),
        ("1.高血压 2.糖尿病", ["1.高血压 2.糖尿病"]),
        ("1. Take it.\n2. Rest. Then walk 3. Stop.", ["1. Take it.", "2. Rest.", "Then walk 3.", "Stop."]),
        ("Dr. Smith and J. Doe came. All well.", ["Dr. Smith and J. Doe came.", "All well."]),
        ("Use tablets, e.g. aspirin, approx. 3.5 g... or none.", ["Use tablets, e.g. aspirin, approx. 3.5 g...", "or none."]),
        ('He said "Stop!" She left. It (he said.) ended', ['He said "Stop!"', "She left.", "It (he said.) ended"]),
        ("见www.a.com?x=1;y=2和U.S.A.等", ["见www.a.com?x=1;y=2和U.S.A.等"]),
        ("  ", [""]),
    ],
)  # fmt: skip
def test_sentences_end_where_a_reader_ends_them(text, sentences):
    assert pieces(text) == sentences


@pytest.mark.parametrize(
    ("text", "limit", "parts"),
    [
        ("短。头痛三天，发烧：39度、咳嗽", 8, ["短。", "头痛三天，", "发烧：", "39度、", "咳嗽"]),
        ("约1,000人,时间12:30", 9, ["约1,000人,", "时间12:30"]),
        ("one two  three four", 9, ["one", "two", "three", "four"]),
        ("头痛头痛", 3, ["头", "痛", "头", "痛"]),
        ("短，" + "长长长长", 3, ["短，", "长", "长", "长", "长"]),
        ("👨‍👩‍👧🇨🇳🇺🇸👍🏽e\u0301葛\U000e0100", 5, ["👨‍👩‍👧", "🇨🇳", "🇺🇸", "👍🏽", "e\u0301", "葛\U000e0100"]),
        ("\ud83d\ude00\ud83d\ude00", 3, ["\ud83d\ude00", "\ud83d\ude00"]),
        ("a，\u0301b c", 4, ["a，\u0301b", "c"]),
        ("a" + 4 * "\u0301", 2, ["a", *4 * "\u0301"]),
    ],
)  # fmt: skip
def test_what_is_too_long_is_broken_at_the_next_level_and_only_that(text, limit, parts):
    assert pieces(text, limit) == parts


def test_between_tokens_comes_before_inside_one():
    breaks = Breaks("高血压糖尿病", [0, 3], 1)
    assert breaks.ends == [3, 6]
    # one token of three characters, a limit of none: inside it
    assert Breaks("高血压", [0, 0, 0, 1, 2], 3).ends == [1, 2, 3]
