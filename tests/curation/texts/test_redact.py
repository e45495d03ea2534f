import datetime
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from care_accel.curation.texts.redact import is_resident_id, passes_luhn, redact, redact_counted

DIGITS = "0123456789"
# Text without digits and without what would join an id to it.
around = st.text(alphabet="我头痛三天了，怎么办？高血压患者。请问 ", max_size=12)


def resident_id(area, birth, order):
    body = f"{area}{birth}{order:03d}"
    total = sum(
        int(digit) * weight
        for digit, weight in zip(body, [7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2], strict=True)
    )
    return body + "10X98765432"[total % 11]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("邮箱 zhang.san@example.com.cn 联系", "邮箱 【邮箱】 联系"),
        ("身份证号：11010519491231002X，头痛", "身份证号：【身份证】，头痛"),
        ("号码11010519491231002x", "号码【身份证】"),
        ("加我微信 abc_12345 详谈", "加我微信 【微信】 详谈"),
        ("VX：doctor-li88", "VX：【微信】"),
        ("QQ群123456789", "QQ群【QQ】"),
        ("卡号6222021234567890128", "卡号【银行卡】"),
        ("电话13812345678。", "电话【电话】。"),
        ("+86 138-1234-5678", "【电话】"),
        ("１３８１２３４５６７８", "【电话】"),
        ("座机(0755)88886666", "座机【电话】"),
        ("拨打400-800-8888", "拨打【电话】"),
        ("住院号：A12345-6，病历号 00123", "住院号：【病历号】，病历号 【病历号】"),
        ("出生日期：1990年5月1日", "出生日期：【出生日期】"),
        ("患者1985-03-12出生", "患者【出生日期】出生"),
        ("患者姓名：李四 男", "患者姓名：【姓名】 男"),
        ("我叫王小明，头痛", "我叫【姓名】，头痛"),
        ("张建国医生说", "【姓名】医生说"),
        ("家住北京市朝阳区建国路88号，咳嗽", "家住【地址】，咳嗽"),
        ("看病在中山路12号3栋", "【地址】"),
    ],
)
def test_personal_data_is_replaced(text, expected):
    found = redact(text)
    assert found == expected or (expected == "【地址】" and "12号" not in found)


@pytest.mark.parametrize(
    "text",
    [
        "血压140/90，心率72次/分，体温36.5度",
        "每日3次，每次0.5g，连用7天",
        "白细胞12.5×109/L，血小板200",
        "2020年3月做了手术，现在2年了",
        "孕39周+2天，HCG 13812345",
        "国药准字H20030123",
        "高血压患者请遵从医生的建议，方案听从医生安排",
        "李医生您好，新陈代谢科医生怎么说",
        "我叫不出药名，医院地址在哪",
        "价格1000000000元",
        "ICD-10编码J18.900",
        "https://example.com/a/b",
    ],
)
def test_medical_texts_stay_as_they_are(text):
    assert redact(text) == text


@given(around, around, st.integers(1, 9), st.text(DIGITS, min_size=8, max_size=8))
def test_every_mobile_number_goes(before, after, third, rest):
    number = f"1{max(3, third)}{rest[0]}{rest[1:]}{rest[0]}"
    assert len(number) == 11
    for written in (
        number,
        f"+86{number}",
        f"{number[:3]}-{number[3:7]}-{number[7:]}",
        f"{number[:3]} {number[3:7]} {number[7:]}",
    ):
        clean = redact(f"{before}{written}{after}")
        assert number[3:7] not in clean or number[3:7] in before + after
        assert "【" in clean


@given(
    around,
    st.integers(100000, 999999),
    st.dates(min_value=datetime.date(1900, 1, 1), max_value=datetime.date(2020, 1, 1)),
    st.integers(0, 999),
    around,
)
def test_every_resident_id_goes_also_with_one_digit_wrong(before, area, birth, order, after):
    number = resident_id(area, birth.strftime("%Y%m%d"), order)
    assert is_resident_id(number)
    assert number not in redact(f"{before}{number}{after}")
    wrong = number[:-1] + ("0" if number[-1] != "0" else "1")
    assert wrong not in redact(f"{before}{wrong}{after}")


@given(
    st.from_regex(re.compile(r"[a-z][a-z0-9.]{1,10}@[a-z0-9]{2,8}\.(com|cn|org)", re.ASCII), fullmatch=True),
    around,
    around,
)
def test_every_mail_address_goes(address, before, after):
    assert address not in redact(f"{before}{address}{after}")


@settings(max_examples=300)
@given(
    st.text(
        alphabet="王李张我叫姓名：电话微信QQ号住院身份证出生地址路街医生13812X-@.年月日，。 【】\n",
        max_size=60,
    )
)
def test_doing_it_twice_changes_nothing_and_marks_are_counted(text):
    once, counts = redact_counted(text)
    assert redact(once) == once
    assert (once != text) == bool(counts)


def test_checks_of_cards_and_ids_are_the_standards():
    assert passes_luhn("4111 1111 1111 1111")
    assert not passes_luhn("4111 1111 1111 1112")
    assert is_resident_id("11010519491231002X")  # the example of GB 11643
    assert is_resident_id("110105194912310021")  # a wrong digit, a possible date
    assert not is_resident_id("110105194913310022")


@pytest.mark.parametrize("unit", ["1", "a", "王", "1-", "https://", "地址", "a.b", "(0", "微信", "张建"])
def test_long_texts_of_one_kind_take_no_forever_and_stay(unit):
    text = unit * (100_000 // len(unit))
    assert redact(text) == text
