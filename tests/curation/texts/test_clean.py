import pytest
from hypothesis import given
from hypothesis import strategies as st

from care_accel.curation.texts.clean import clean_text, rejection_reason


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("<p>高血压<br/>怎么治</p>", "高血压 怎么治"),
        ("血压&gt;140，血糖&lt;7", "血压>140，血糖<7"),
        ("&amp;lt;b&amp;gt;头痛", "头痛"),
        ('"""斑秃俗称""鬼剃头""。""""郑重提醒"""', '斑秃俗称""鬼剃头""。郑重提醒'),
        ("怎么办！！！！！", "怎么办！"),
        ("疼\u200b痛\ufeff", "疼痛"),
        ("头痛\u3000\u3000 发热 \r\n\r\n 咳嗽", "头痛 发热\n咳嗽"),
        ("半个\ud83d表情", "半个\ufffd表情"),
        ("1<2且3>2，HBsAg(+)，5~10ml……", "1<2且3>2，HBsAg(+)，5~10ml……"),
    ],
)
def test_only_what_is_no_part_of_the_text_is_taken_out(text, cleaned):
    assert clean_text(text) == cleaned


@given(st.text(alphabet=st.sampled_from("高血压<>/bp&;ltgam#3\"' \n\u200b！。1"), max_size=40))
def test_cleaning_again_changes_nothing(text):
    assert clean_text(clean_text(text)) == clean_text(text)


def test_personal_data_is_looked_for_in_the_cleaned_text():
    assert (
        clean_text("电话138\u200b0013<b></b>", lambda text: text.replace("1380013", "【电话】"))
        == "电话【电话】"
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("头痛", "too short"),
        ("头痛" * 3000, "too long"),
        ("how to treat it", "not Chinese"),
        ("1234567890 痛", "not Chinese"),
        ("头\ufffd痛\ufffd怎\ufffd么办", "broken"),
        ("哈哈哈哈哈哈哈哈哈哈哈哈哈哈哈哈哈哈哈哈哈哈哈哈哈哈哈哈", "repeats itself"),
        ("高血压怎么治", None),
        ("T3、T4偏低怎么办", None),
        ("糖尿病患者要控制主食，监测血糖。" * 20, None),
    ],
)
def test_what_cannot_be_used_is_told_apart(text, why):
    assert rejection_reason(text) == why
