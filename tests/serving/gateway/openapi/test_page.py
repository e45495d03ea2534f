"""The page of the description."""

import re
from html.parser import HTMLParser

import pytest

TOKEN = "0123456789abcdef-page"


class Balanced(HTMLParser):
    """Checks that elements are closed in order, and keeps ids, links and text."""

    EMPTY = ("meta", "link", "img")

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.links, self.text = [], [], [], ""

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag not in self.EMPTY:
            self.open.append(tag)
        if "id" in values:
            self.ids.append(values["id"])
        self.links += [values[name] for name in ("href", "src") if name in values]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def read(gateway):
    def read_(**options):
        client = gateway(**options)
        answer = client.get("/docs")
        assert answer.status_code == 200
        page = Balanced()
        page.feed(answer.text)
        assert page.open == []
        return client, answer, page

    return read_


def test_every_operation_is_on_the_page_with_its_fields(read):
    client, _, page = read()
    whole = client.get("/openapi.json").json()
    for path, methods in whole["paths"].items():
        for method, operation in methods.items():
            assert operation["operationId"] in page.ids
            assert f"{method.upper()} {path}" in page.text
    for name in (
        "input_type",
        "encoding_format",
        "top_n",
        "data[].hits[].score",
        "roles.*.dimensions",
        "query",
    ):
        assert name in page.text
    assert "role_conflict" in page.text
    assert "`" not in page.text
    assert len(set(page.ids)) == len(page.ids)


def test_it_asks_no_other_host_and_has_no_script(read):
    client, answer, page = read()
    for link in page.links:
        assert ":" not in link
        assert link[1:] in page.ids if link[0] == "#" else client.get(f"/{link}").status_code == 200
    assert not re.search(r"<script|style=|\son\w+=", answer.text)


def test_a_token_is_in_the_examples_where_one_is_needed(read):
    assert "Bearer TOKEN" not in read()[2].text
    assert "Bearer TOKEN' " in read(tokens=(TOKEN,))[2].text


def test_it_needs_no_token_itself_as_it_holds_no_words_of_anybody(read):
    client, _, page = read(tokens=(TOKEN,))
    assert client.get("/openapi.json").status_code == 200
    assert TOKEN not in page.text
    assert client.get("/docs", headers={"host": "evil.example"}).status_code == 400


@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits_the_window_and_the_browser_has_nothing_to_complain_about(chromium, served, width):
    chromium.open(served().address + "/docs", width=width)
    assert chromium.overflow() <= 0
    assert chromium.hosts() == {chromium.run("location.origin")}
    assert chromium.run("getComputedStyle(document.querySelector('.method')).borderTopLeftRadius") != "0px"
    assert chromium.complaints() == []
    chromium.screenshot(f"description-{width}")
