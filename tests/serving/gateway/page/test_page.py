"""The page on the gateway's root, in a real browser."""

import asyncio
import json

import pytest

from care_accel.encoding.runtimes.attempts import ServerError

TOKEN = "0123456789abcdef-page"
HOSTILE = (
    '<script>window.harmed = 1; document.title = "harmed"</script>'
    '<img src="x" onerror="window.harmed = 2"><b>bold</b> &amp; 高血压'
)
LONG = "糖尿病患者应当控制总热量，规律进餐，监测血糖，适量运动。" * 12
WITHOUT_A_GAP = "W" * 400
DOCUMENTS = (
    HOSTILE,
    {"title": "<i>糖尿病</i>饮食", "text": LONG},
    WITHOUT_A_GAP,
    {"pmid": 7, "answer": [1, None]},
    None,
)


@pytest.fixture
def page(chromium, served, memory):
    """Return a function that opens the page of a gateway with some documents."""
    memory.documents = list(DOCUMENTS)

    def open_(gateway=None, **visitor):
        chromium.open(served(**(gateway or {})).address + "/", **visitor)
        return chromium

    return open_


def ask(browser, question="高血压怎么治"):
    browser.run("document.querySelector('#question').focus()")
    browser.write(question)
    browser.enter()
    browser.until("!document.querySelector('#found').hidden")


def test_a_question_shows_hits_with_scores_and_where_the_time_went(page, memory):
    browser = page()
    memory.times = (200.0, 1000.0, 50.0)
    ask(browser)
    assert memory.asked == [("search", ["高血压怎么治"], 10, "retrieval")]
    assert browser.run("document.querySelectorAll('#hits li').length") == len(DOCUMENTS)
    assert "0.9000" in browser.text("#hits li")
    assert browser.text("#status") == f"找到 {len(DOCUMENTS)} 条结果"
    parts = browser.run(
        "[...document.querySelectorAll('#parts div')].map((e) => "
        "[...e.children].slice(0, 2).map((c) => c.innerText))"
    )
    assert [name for name, _ in parts] == ["分词", "编码", "扫描", "网络"]
    assert [time for _, time in parts[:3]] == ["0.20 毫秒", "1.00 毫秒", "0.05 毫秒"]
    total = float(browser.text("#total").split()[0])
    assert sum(float(time.split()[0]) for _, time in parts) == pytest.approx(total, abs=0.6)
    widths = browser.run(
        "[...document.querySelectorAll('#bar span')].map((e) => e.getBoundingClientRect().width)"
    )
    assert len(widths) == 4
    assert widths[1] > widths[0] > widths[2] > 0
    assert browser.complaints() == []
    browser.screenshot("light")


def test_a_document_is_text_whatever_it_holds(page):
    browser = page()
    ask(browser)
    assert browser.run("document.querySelector('#hits li .body').textContent") == HOSTILE
    assert browser.text("#hits li:nth-child(2) h3") == "<i>糖尿病</i>饮食"
    assert (
        browser.run("window.harmed ?? document.querySelectorAll('#hits script, #hits img, #hits b').length")
        == 0
    )
    assert browser.run("document.title") == "care_accel"
    assert json.loads(browser.text("#hits li:nth-child(4) .body")) == DOCUMENTS[3]
    assert "没有保存文档内容" in browser.text("#hits li:nth-child(5)")
    assert browser.complaints() == []


def test_a_hit_of_a_collection_has_its_own_id_and_shows_its_fields(page, memory):
    browser = page()
    memory.documents = [
        {
            "id": "a<b>1",
            "title": "",
            "text": LONG,
            "科室": "<i>儿科</i>",
            "year": 2021,
            "tags": ["x", "y"],
            "day": None,
        },
        {"_id": "7", "text": "无"},
    ]
    memory.document_ids = ["a<b>1", "7"]
    ask(browser)
    assert browser.text("#hits li .id") == "a<b>1"
    assert browser.text("#hits li .fields") == "科室: <i>儿科</i> · year: 2021 · tags: x, y"
    assert browser.run("document.querySelector('#hits li:nth-child(2) .fields')") is None
    assert browser.complaints() == []


class Fields:
    """Stands where the store of a collection does."""

    writable, waiting = False, 0

    async def fields(self):
        values = [{"value": "儿科", "documents": 3}, {"value": "it's <b>", "documents": 1}]
        return {
            "version": 1,
            "fields": [
                {"name": "科室", "type": "a text", "values": values},
                {"name": "year", "type": "an integer"},
            ],
        }

    async def close(self):
        pass


def test_a_field_with_few_values_can_be_chosen_from(page, memory):
    pytest.importorskip("lance", reason="needs the extra collection")
    browser = page({"documents": Fields()})
    browser.until("document.querySelectorAll('#filters select').length === 1")
    assert browser.text("#filters label span") == "科室"
    options = "[...document.querySelectorAll('#filters option')].map((e) => e.textContent)"
    assert browser.run(options) == ["全部", "儿科（3）", "it's <b>（1）"]
    ask(browser)
    assert memory.asked.pop() == ("search", ["高血压怎么治"], 10, "retrieval")
    browser.run(
        "(() => { const one = document.querySelector('#filters select'); one.value = \"it's <b>\";"
        " one.dispatchEvent(new Event('change')); })()"
    )
    browser.until("!document.querySelector('#found').hidden")
    assert memory.asked.pop() == ("search", ["高血压怎么治"], 10, "retrieval", ["`科室` = 'it''s <b>'"])
    browser.run("document.querySelector('#language').click()")
    assert browser.run("document.querySelector('#filters select').value") == "it's <b>"
    assert browser.run(options)[0] == "all"
    assert browser.complaints() == []
    browser.screenshot("filters")


def test_no_other_host_is_asked_for_anything(page):
    browser = page()
    address = browser.run("location.origin")
    ask(browser)
    assert browser.hosts() == {address}
    assert browser.run("document.cookie + localStorage.length + sessionStorage.length") == "00"


@pytest.mark.parametrize(
    "attack",
    [
        "document.body.innerHTML = '<b>x</b>'",
        "document.createElement('script').src = 'data:text/javascript,1'",
        "document.body.setAttribute('onclick', 'window.harmed = 1'); document.body.click()",
        "new Image().src = 'http://127.0.0.2:9/seen.png'",
        "document.body.setAttribute('style', 'background: url(http://127.0.0.2:9/)')",
        "await fetch('http://127.0.0.2:9/')",
    ],
)
def test_the_policy_stops_what_a_mistake_in_the_script_would_let_in(page, attack):
    browser = page()
    disposition = browser.run(
        f"""new Promise((resolve) => {{
          document.addEventListener('securitypolicyviolation', resolve, {{ once: true }});
          (async () => {{ {attack} }})().catch(() => 0);
        }}).then((violation) => violation.disposition)"""
    )
    assert disposition == "enforce"
    assert browser.run("typeof window.harmed") == "undefined"


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (360, "dark"), (1100, "dark"), (768, "light")])
def test_it_is_readable_on_any_screen(page, width, scheme):
    browser = page(width=width, height=780, scheme=scheme)
    ask(browser)
    assert browser.overflow() <= 0
    # What is cut off can be unfolded, and nothing else; the browser says so with its next frame.
    browser.until(
        "[...document.querySelectorAll('.clamped')].every((e) => "
        "(e.scrollHeight > e.clientHeight + 1) === e.nextElementSibling.checkVisibility())"
    )
    assert browser.run("document.querySelectorAll('.more:not([hidden])').length") >= 2
    sizes = browser.run(
        "[...document.querySelectorAll('button, input, select')].filter((e) => e.checkVisibility())"
        ".map((e) => { const r = e.getBoundingClientRect(); return [r.left, r.right, r.height] })"
    )
    assert all(left >= 0 and right <= width and height >= 24 for left, right, height in sizes)
    browser.screenshot(f"{scheme}-{width}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_their_ground(page, scheme):
    """WCAG's contrast of 4.5 for every text that is seen, placeholders aside."""
    browser = page(scheme=scheme)
    ask(browser)
    ratios = browser.run(
        """(() => {
          const rgb = (c) => c.match(/[\\d.]+/g).map(Number);
          const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
            .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
            .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
          const ground = (e) => {
            for (; e; e = e.parentElement) {
              const c = rgb(getComputedStyle(e).backgroundColor);
              if (c.length < 4 || c[3] > 0) return c;
            }
            return [255, 255, 255];
          };
          return [...document.querySelectorAll('body *')]
            .filter((e) => e.checkVisibility() && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
            .map((e) => {
              const [a, b] = [light(rgb(getComputedStyle(e).color)), light(ground(e))];
              return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.outerHTML.slice(0, 80)];
            });
        })()"""
    )
    assert len(ratios) > 20
    assert [one for one in ratios if one[0] < 4.5] == []


def test_the_language_follows_the_visitor_and_switches_without_asking_anew(page, memory):
    browser = page(language="en-GB")
    assert browser.run("document.documentElement.lang") == "en"
    assert browser.text("#search") == "Search"
    ask(browser)
    assert browser.text("#status") == f"{len(DOCUMENTS)} hits"
    browser.screenshot("english")
    browser.run("document.querySelector('#language').click()")
    assert browser.run("document.documentElement.lang") == "zh-CN"
    assert browser.text("#search") == "检索"
    assert browser.text("#status") == f"找到 {len(DOCUMENTS)} 条结果"
    assert "得分" in browser.text("#hits li")
    assert browser.text("#language") == "English"
    assert len(memory.asked) == 1


def test_both_languages_have_every_word(page):
    browser = page()
    missing = browser.run(
        """import('./words.js').then(({ WORDS }) => {
          const names = (o, p = '') => Object.entries(o)
            .flatMap(([k, v]) => (typeof v === 'object' ? names(v, `${p}${k}.`) : [p + k])).sort();
          const [zh, en] = [names(WORDS.zh), names(WORDS.en)];
          const used = [...document.querySelectorAll('[data-word]')].map((e) => e.dataset.word);
          return [zh.filter((k) => !en.includes(k)), en.filter((k) => !zh.includes(k)),
            used.filter((k) => !zh.includes(k)), document.querySelectorAll('[data-word]:empty').length];
        })"""
    )
    assert missing == [[], [], [], 0]


def test_all_of_it_works_by_keyboard(page, memory):
    browser = page()
    assert browser.run("document.activeElement.id") == "question", "it can be typed into at once"
    browser.write("头痛怎么办")
    browser.tab()
    assert browser.run("document.activeElement.id") == "k"
    browser.key("ArrowDown", code=40)
    assert browser.run("document.activeElement.value") == "20"
    browser.tab()
    assert browser.run("document.activeElement.id") == "search"
    assert browser.run("getComputedStyle(document.activeElement).outlineStyle") == "solid", (
        "the focus is seen"
    )
    browser.enter()
    browser.until("!document.querySelector('#found').hidden")
    assert memory.asked == [("search", ["头痛怎么办"], 20, "retrieval")]
    # What is cut off is known once it has been laid out.
    browser.until("document.querySelector('.more:not([hidden])') !== null")
    order = ["search"]
    while order[-1] != "more" and len(order) < 12:
        browser.tab()
        order.append(
            browser.run("document.activeElement.id || document.activeElement.className.split(' ').pop()")
        )
    assert order[-1] == "more"
    assert browser.run("document.activeElement.getAttribute('aria-expanded')") == "false"
    browser.enter()
    assert browser.run("document.activeElement.getAttribute('aria-expanded')") == "true"
    assert browser.run("document.activeElement.innerText") == "收起"
    for _ in range(20):
        browser.tab(back=True)
        if browser.run("document.activeElement.id") == "language":
            break
    browser.enter()
    assert browser.run("document.documentElement.lang") == "en"


def test_an_example_is_one_press_away(page, memory):
    browser = page()
    browser.run("document.querySelector('#examples button').click()")
    browser.until("!document.querySelector('#found').hidden")
    assert memory.asked[0][1] == ["高血压怎么治"]


def test_a_token_is_asked_for_and_kept_in_memory_only(page, memory):
    browser = page({"tokens": (TOKEN,)})
    assert browser.run("document.activeElement.id") == "token"
    assert browser.run("document.querySelector('#token').type") == "password"
    browser.write("wrong-token-of-a-visitor")
    browser.run("document.querySelector('#question').focus()")
    browser.write("头痛怎么办")
    browser.enter()
    browser.until("!document.querySelector('#error').hidden")
    assert "令牌缺失或不正确" in browser.text("#error")
    assert memory.asked == []
    assert browser.run("document.activeElement.id") == "token"
    browser.screenshot("token")
    browser.run("document.querySelector('#token').select()")
    browser.write(TOKEN)
    browser.enter()
    browser.until("!document.querySelector('#found').hidden")
    assert browser.run("location.href.length + document.cookie.length + localStorage.length") == len(
        browser.run("location.origin") + "/"
    )
    browser.run("window.before = true")
    browser.call("Page.reload")
    browser.until("!window.before && !!document.querySelector('#version')?.textContent")
    assert browser.run("document.querySelector('#token').value") == ""


@pytest.mark.parametrize(
    ("status", "words"),
    [("UNAVAILABLE", "服务器正忙"), ("DEADLINE_EXCEEDED", "没有及时回答"), ("NOT_FOUND", "没有提供检索")],
)
def test_an_error_is_told_in_plain_words_with_the_request_s_number(page, memory, status, words):
    browser = page()
    memory.fault = ServerError(status, "words of the server")
    browser.run("document.querySelector('#examples button').click()")
    browser.until("!document.querySelector('#error').hidden")
    assert words in browser.text("#error")
    assert "请求编号" in browser.text("#error")
    browser.run("document.querySelector('#language').click()")
    assert "request " in browser.text("#error")
    browser.screenshot("error")


def test_a_gateway_that_went_away_is_told_as_such(page, chromium):
    browser = page()
    browser.call(
        "Network.emulateNetworkConditions",
        offline=True,
        latency=0,
        downloadThroughput=-1,
        uploadThroughput=-1,
    )
    try:
        browser.run("document.querySelector('#examples button').click()")
        browser.until("!document.querySelector('#error').hidden")
        assert "连不上网关" in browser.text("#error")
    finally:
        browser.call(
            "Network.emulateNetworkConditions",
            offline=False,
            latency=0,
            downloadThroughput=-1,
            uploadThroughput=-1,
        )


def test_a_later_question_replaces_one_under_way(page, memory, served):
    browser = page()
    memory.hold = asyncio.Event()
    browser.run("document.querySelector('#examples button').click()")
    browser.until("document.querySelector('#status').textContent === '检索中……'")
    memory.hold = None
    browser.run("document.querySelector('#examples button:nth-child(2)').click()")
    browser.until("!document.querySelector('#found').hidden")
    assert [asked[1] for asked in memory.asked] == [["高血压怎么治"], ["糖尿病人能吃水果吗"]]
