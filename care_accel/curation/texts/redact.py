"""PII redaction: replaces personal data in texts by tags.

Tags and what they replace:

==============  ======================================================================================
【邮箱】         e-mail addresses
【网址】         URLs with a query string or user info; others are not personal data
【身份证】       resident ids: 17 digits and a check character if the checksum is right or the birth date is
                 possible; old 15-digit ids likewise; after 身份证 any number of that length
【电话】         mobile numbers (1[3-9] and 9 digits, +86 or 0086 before them, spaces or hyphens between), fixed
                 lines with an area code, 400 and 800 numbers, and digits after 电话, 手机, 联系方式 and the like
【微信】【QQ】   accounts after 微信, 微信号, VX, weixin; QQ and a number of 5 to 11 digits
【银行卡】       16 to 19 digits that pass the Luhn check
【病历号】       numbers after 病历号, 住院号, 门诊号, 就诊卡号, 床号, 医保卡号, 社保号, 检查号, 标本号, MRN ...
【出生日期】     dates after 出生, 生日, 生于, DOB, and dates before 出生 or 生
【姓名】         names after 姓名, 患者姓名, 联系人 and the like with a colon, after 我叫, 我的名字是, 名叫, and surnames with
                 a given name before a title (王建国医生), with 2 or 3 characters of a common surname
【地址】         what follows 地址, 住址, 家住, 现住, up to the next punctuation, if it has a word such as 市 or 路;
                 and streets with a number
==============  ======================================================================================

Full-width digits are recognised too. Not recognised: names without such context, a surname alone before a title,
nicknames, places without a number, employers, rare circumstances that identify a person. Pattern-based redaction
lowers the risk but does not remove it; using texts of real patients still needs the consent of the data owner.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from datetime import date
from typing import NamedTuple

# The most common surnames (Ministry of Public Security's list of names, and the common ones of two characters).
_SURNAMES = (
    "王李张刘陈杨黄赵吴周徐孙马朱胡郭何林高罗郑梁谢宋唐许韩冯邓曹彭曾肖田董袁潘蔡蒋余于杜叶程魏苏吕丁任卢姚沈钟姜崔"
    "谭陆范汪廖石金贾韦夏付傅方邹熊白孟秦邱侯江尹薛闫阎雷龙黎史陶贺毛段郝顾龚邵覃武钱戴严莫孔向汤常温康施牛樊葛邢"
)
_NAME = rf"(?:欧阳|司马|上官|诸葛|[{_SURNAMES}])[\u4e00-\u9fff]{{1,2}}"
# Characters that may follow a surname's character before a title but occur in no given name: 方案听从医生, 周找医生.
_NO_NAME = (
    "的了在和与或及找看问请由按听遵从据让经去到是有被把给向对为该求咨询照代谢科病症痛周需要应后前多使用女男"
)
_TITLED_NAME = rf"(?:欧阳|司马|上官|诸葛|[{_SURNAMES}])[^\W\da-zA-Z_{_NO_NAME}]{{1,2}}"
_ANY_NAME = r"(?:[\u4e00-\u9fff]{2,4}(?:·[\u4e00-\u9fff]{1,6})?|[A-Za-z]+(?: [A-Za-z]+){0,2})"
_TITLE = "医生|大夫|主任|教授|医师|护士|护士长|先生|女士|小姐|老师|院长|同志"
_COLON = r"[ \t\u3000]*(?:[:：=＝]|为|是)[ \t\u3000]*"
_GAP = r"[-－—– ]?"
_D = r"[0-9０-９]"
_NOT_IN_NUMBER = r"(?<![0-9０-９])"
_NUMBER_ENDS = r"(?![0-9０-９])"
_DATE = (
    r"(?:[12０-９0-9][0-9０-９]{3}[年./-][ ]?[0-9０-９]{1,2}(?:[月./-][ ]?[0-9０-９]{1,2}日?号?|月)?|"
    r"[12][0-9]{3}[01][0-9][0-3][0-9]|[0-9０-９]{2,4}年(?:[0-9０-９]{1,2}月)?)"
)
_FULL_WIDTH = str.maketrans("０１２３４５６７８９Ｘｘ", "0123456789XX")


def _digits(text: str) -> str:
    return re.sub(r"[^0-9X]", "", text.translate(_FULL_WIDTH).upper())


def _is_date(digits: str) -> bool:
    try:
        return date(1880, 1, 1) <= date(int(digits[:4]), int(digits[4:6]), int(digits[6:8])) <= date.today()
    except ValueError:
        return False


def is_resident_id(text: str) -> bool:
    """Return whether a text looks like a resident id (GB 11643): a valid checksum, or a possible birth date.

    A wrong checksum with a possible date is most often a mistyped real id.
    """
    digits = _digits(text)
    if re.fullmatch(r"[1-9]\d{14}", digits):
        return _is_date(f"19{digits[6:12]}")
    if not re.fullmatch(r"[1-9]\d{16}[0-9X]", digits):
        return False
    total = sum(int(digit) * (2 ** (17 - i) % 11) for i, digit in enumerate(digits[:17]))
    return "10X98765432"[total % 11] == digits[17] or _is_date(digits[6:14])


def passes_luhn(text: str) -> bool:
    """Return whether digits pass the Luhn check of bank cards (ISO 7812)."""
    digits = [int(digit) for digit in _digits(text) if digit != "X"]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return bool(digits) and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


class _Kind(NamedTuple):
    tag: str
    # Group "it" is replaced, or the whole match if there is none.
    pattern: re.Pattern[str]
    test: Callable[[str], bool] | None = None


def _kind(tag: str, pattern: str, test: Callable[[str], bool] | None = None) -> _Kind:
    return _Kind(tag, re.compile(pattern, re.IGNORECASE), test)


# Order matters: longer patterns and those with a context word come first.
_KINDS = (
    _kind("【邮箱】", r"[a-z0-9][a-z0-9_.+-]{0,63}[@＠][a-z0-9-]{1,63}(?:[.．][a-z0-9-]{1,63}){1,8}"),
    _kind(
        "【网址】",
        r"https?://(?:[^\s/?#@，。；、]{0,99}@[^\s，。；、]+|[^\s?#，。；、]{0,999}\?[^\s，。；、]+)",
    ),
    _kind("【身份证】", rf"身份证(?:号码|号)?(?:{_COLON}|[ \t]*)(?P<it>{_D}{{14,17}}[0-9０-９XxＸｘ])"),
    _kind(
        "【身份证】",
        rf"{_NOT_IN_NUMBER}(?P<it>{_D}{{17}}[0-9０-９XxＸｘ]|{_D}{{15}}){_NUMBER_ENDS}",
        is_resident_id,
    ),
    _kind(
        "【病历号】",
        r"(?:病历|病案|住院|门诊|就诊|就诊卡|诊疗卡|登记|床|床位|医保|医保卡|社保|社保卡|检查|检验|标本|病理|影像|CT|MRI|X线)"
        rf"(?:号码|编号|号|卡号)(?:{_COLON}|[ \t#]*)(?P<it>[A-Za-z]{{0,4}}[-#]?[0-9０-９][0-9０-９A-Za-z-]*)",
    ),
    _kind("【病历号】", r"\bMRN\b[ \t:：#]*(?P<it>[A-Za-z]{0,4}[0-9][0-9A-Za-z-]*)"),
    _kind(
        "【微信】",
        rf"(?:微信|薇信|威信|weixin|wechat|(?<![a-z])vx(?![a-z])|(?<![a-z])wx(?![a-z]))(?:号码|号|ID)?(?:{_COLON}|[ \t]*)"
        r"(?P<it>[a-z0-9][a-z0-9_-]{4,19})(?![a-z0-9_-])",
    ),
    _kind(
        "【QQ】",
        rf"(?:QQ|扣扣|企鹅)(?:群|号码|号)*(?:{_COLON}|[ \t]*)(?P<it>[1-9１-９]{_D}{{4,10}}){_NUMBER_ENDS}",
    ),
    _kind(
        "【银行卡】",
        rf"{_NOT_IN_NUMBER}(?P<it>{_D}{{4}}(?:[ -]?{_D}{{4}}){{2}}[ -]?{_D}{{4,7}}){_NUMBER_ENDS}",
        passes_luhn,
    ),
    _kind(
        "【电话】",
        rf"(?<![0-9０-９.])(?P<it>(?:(?:[+＋]|00)86{_GAP})?[1１][3-9３-９]{_D}(?:{_GAP}{_D}{{4}}){{2}}){_NUMBER_ENDS}",
    ),
    _kind(
        "【电话】",
        rf"{_NOT_IN_NUMBER}(?P<it>[（(]?[0０]{_D}{{2,3}}[)）]?{_GAP}[2-9２-９]{_D}{{6,7}}){_NUMBER_ENDS}",
    ),
    _kind(
        "【电话】", rf"{_NOT_IN_NUMBER}(?P<it>[48][0０]{{2}}{_GAP}{_D}{{3,4}}{_GAP}{_D}{{3,4}}){_NUMBER_ENDS}"
    ),
    _kind(
        "【电话】",
        rf"(?:电话|手机|手机号|座机|热线|联系方式|联系号码|传真|tel|phone|mobile)(?:号码|号)?(?:{_COLON}|[ \t]*)"
        rf"(?P<it>[+＋]?{_D}(?:[- ]?{_D}){{5,14}})",
    ),
    _kind(
        "【出生日期】",
        rf"(?:出生日期|出生年月日?|出生于|出生|生日|生于|DOB)(?:{_COLON}|[ \t]*)(?P<it>{_DATE})",
    ),
    _kind("【出生日期】", rf"(?P<it>{_DATE})(?=[ \t]*(?:出生|生人|生(?![^，。,.\s的])))"),
    _kind(
        "【姓名】",
        rf"(?:姓名|患者名|病人名|联系人|家属|签名|收件人|监护人)[ \t\u3000]*[:：=＝][ \t\u3000]*(?P<it>{_ANY_NAME})",
    ),
    _kind(
        "【姓名】",
        rf"(?:我叫|我名叫|名叫|我的名字是|我的名字叫|名字叫)(?:做)?(?P<it>{_NAME})(?=[，。,.、；;！!\s]|今年|现在|$|是)",
    ),
    _kind("【姓名】", rf"(?P<it>{_TITLED_NAME})(?={_TITLE})"),
    _kind(
        "【地址】",
        r"(?:家庭住址|家庭地址|联系地址|地址|住址|家住|现住|户籍)(?:[:：]|在|于)?[ \t]*"
        # Only with a place word: 地址 also occurs in page titles.
        r"(?=[^，。,；;！!\n【】]{0,20}[省市区县镇乡村路街号弄栋])(?P<it>[^，。,；;！!\n【】]{4,50})",
    ),
    _kind(
        "【地址】",
        rf"(?P<it>[\u4e00-\u9fff]{{2,8}}(?:路|街|大道|胡同|弄|巷){_D}{{1,5}}号(?:[0-9０-９A-Za-z\u4e00-\u9fff-]{{0,12}}(?:室|楼|单元|栋))?)",
    ),
)
TAGS = tuple(dict.fromkeys(kind.tag for kind in _KINDS))


def redact(text: str) -> str:
    """Replace personal data by tags such as 【电话】; the module lists what is recognised."""
    return redact_counted(text)[0]


def redact_counted(text: str) -> tuple[str, Counter[str]]:
    """Redact a text; also return the count of each tag.

    Idempotent.
    """
    counts: Counter[str] = Counter()
    for kind in _KINDS:

        def put(match: re.Match[str], kind: _Kind = kind) -> str:
            found = match["it"] if "it" in match.re.groupindex else match[0]
            if kind.test is not None and not kind.test(found):
                return match[0]
            counts[kind.tag] += 1
            start = match.start("it") - match.start() if "it" in match.re.groupindex else 0
            return match[0][:start] + kind.tag + match[0][start + len(found) :]

        text = kind.pattern.sub(put, text)
    return text, counts
