import asyncio
import json
import logging
import socket

import pytest

from care_accel import CareError
from care_accel.curation.config import JudgeConfig, Judging
from care_accel.curation.judges.endpoints import check_endpoints, is_local
from care_accel.curation.judges.judge import (
    Judge,
    JudgeUnavailable,
    backoff,
    estimate_tokens,
    retry_after,
)
from care_accel.curation.judges.prompting import load_prompt

PROMPT = load_prompt("relevance-v1", ("query", "document"))
QUERY, DOCUMENT = "高血压怎么治", "低盐饮食，服用降压药。"
RIGHT = {"truth": {f"{QUERY}\n{DOCUMENT}": 1}}


def ask(server, **options):
    """Ask once, without waiting between attempts; return the delays with the reply."""
    waits = []

    async def sleep(seconds):
        waits.append(seconds)

    async def once():
        config = JudgeConfig(**{"name": "a", "base_url": server.url, "model": "m", "timeout": 5.0, **options})
        async with Judge(config, sleep=sleep) as judge:
            return await judge.ask(PROMPT.messages({"query": QUERY, "document": DOCUMENT}), PROMPT.schema)

    return asyncio.run(once()), waits


def test_an_answer_is_kept_as_it_came_with_tokens_and_model(serve):
    server = serve(**RIGHT)
    reply, waits = ask(server, temperature=0.3, seed=7)
    assert reply.outcome == "answered"
    assert reply.values["grade"] in (4, 5)
    assert json.loads(reply.raw) == reply.values
    assert reply.tokens_in > 100
    assert reply.tokens_out == len(reply.raw)
    assert reply.model == "m-2026"
    assert waits == []
    (asked,) = server.events("asked")
    assert (asked["body"]["temperature"], asked["body"]["seed"]) == (0.3, 7)
    assert asked["body"]["response_format"]["json_schema"]["schema"]["properties"]["grade"]["enum"] == [
        1,
        2,
        3,
        4,
        5,
    ]


@pytest.mark.parametrize("kind", ["429", "500", "closed"])
def test_a_failure_that_passes_is_tried_again(serve, kind):
    server = serve(judges={"m": {"faults": {"rates": {kind: 1.0}, "times": 3}}}, **RIGHT)
    reply, waits = ask(server, retries=3)
    assert reply.outcome == "answered"
    assert len(server.events("asked")) == 4
    assert len(waits) == 3


def test_a_time_out_is_tried_again(serve):
    server = serve(judges={"m": {"faults": {"rates": {"timeout": 1.0}, "seconds": 3.0}}}, **RIGHT)
    reply, _ = ask(server, timeout=0.5)
    assert reply.outcome == "answered"
    assert len(server.events("asked")) == 2


def test_an_answer_that_never_ends_is_not_waited_for(serve):
    server = serve(judges={"m": {"faults": {"rates": {"drip": 1.0}}}}, **RIGHT)
    reply, _ = ask(server, timeout=0.5)
    assert reply.outcome == "answered"
    assert len(server.events("asked")) == 2


def test_waits_grow_and_differ_and_end_at_a_minute():
    for attempt in range(12):
        waits = {backoff(attempt) for _ in range(20)}
        longest = min(60.0, 0.5 * 2**attempt)
        assert len(waits) > 1
        assert longest / 2 <= min(waits)
        assert max(waits) <= longest


def test_what_the_endpoint_asks_to_wait_is_waited(serve):
    server = serve(judges={"m": {"faults": {"rates": {"429": 1.0}, "retry_after": "17"}}}, **RIGHT)
    config = JudgeConfig("a", server.url, "m")
    waits = []

    async def sleep(seconds):
        waits.append(seconds)
        now[0] += seconds

    async def once():
        async with Judge(config, sleep=sleep) as judge:
            judge._rate_limiter._clock = lambda: now[0]
            return await judge.ask(PROMPT.messages({"query": QUERY, "document": DOCUMENT}), PROMPT.schema)

    now = [1000.0]
    assert asyncio.run(once()).outcome == "answered"
    assert waits == [17.0]


def test_retry_after_is_a_number_or_a_date():
    assert retry_after({"retry-after": "2.5"}) == 2.5
    assert retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0.0
    assert retry_after({"retry-after": "1e9"}) == 600.0
    assert retry_after({"retry-after": "soon"}) is None
    assert retry_after({}) is None


def test_a_broken_answer_is_shown_to_the_judge_once(serve):
    server = serve(judges={"m": {"faults": {"rates": {"broken": 1.0}, "times": 9}}}, **RIGHT)
    reply, _ = ask(server)
    assert reply.outcome == "answered"
    assert reply.first_raw == "五分，因为文档回答了提问。"
    first, second = server.events("asked")
    assert (first["repair"], second["repair"]) == (False, True)
    assert "it is not JSON" in second["body"]["messages"][-1]["content"]
    assert reply.tokens_in > len(str(PROMPT.system)) * 2


def test_an_answer_that_stays_broken_is_no_grade(serve):
    server = serve(judges={"m": {"faults": {"always": "broken", "text": '{"grade": 6, "reason": ""}'}}})
    reply, _ = ask(server)
    assert reply.outcome == "unreadable"
    assert reply.values is None
    assert "grade is none of [1, 2, 3, 4, 5]" in reply.error
    assert len(server.events("asked")) == 2
    assert reply.raw == reply.first_raw == '{"grade": 6, "reason": ""}'


def test_an_endpoint_that_fails_for_good_gives_no_answer(serve):
    server = serve(judges={"m": {"faults": {"always": "500"}}})
    reply, waits = ask(server, retries=2)
    assert reply.outcome == "unanswered"
    assert "HTTP 500" in reply.error
    assert "after 3 attempts" in reply.error
    assert len(waits) == 2


def test_a_request_that_is_refused_for_what_it_is_is_not_repeated(serve):
    server = serve(judges={"m": {"faults": {"always": "400"}}})
    reply, _ = ask(server)
    assert reply.outcome == "unanswered"
    assert reply.refused
    assert len(server.events("asked")) == 1


def test_a_refused_key_stops_the_judge_and_is_in_no_message(serve, monkeypatch, caplog, capfd):
    monkeypatch.setenv("JUDGE_KEY", "sk-very-secret")
    caplog.set_level(logging.DEBUG)
    server = serve(judges={"m": {"faults": {"always": "401"}}})
    with pytest.raises(JudgeUnavailable) as refusal:
        ask(server, key="JUDGE_KEY")
    assert server.events("asked")[0]["authorization"] == "Bearer sk-very-secret"
    assert "***" in str(refusal.value)
    seen = str(refusal.value) + caplog.text + "".join(capfd.readouterr())
    assert "sk-very-secret" not in seen
    assert QUERY not in seen


def test_a_key_that_is_not_there_is_named_before_anything_is_asked(serve, monkeypatch):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    server = serve()
    with pytest.raises(CareError, match="JUDGE_KEY is not set"):
        ask(server, key="JUDGE_KEY")
    assert server.events("asked") == []


def test_a_local_endpoint_cannot_send_texts_on(serve):
    other = serve()
    server = serve(judges={"m": {"faults": {"always": "redirect", "to": f"{other.url}/chat/completions"}}})
    reply, _ = ask(server)
    assert reply.outcome == "unanswered"
    assert other.events("asked") == []


def test_a_proxy_of_the_environment_does_not_see_what_is_local(serve, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert ask(serve(**RIGHT))[0].outcome == "answered"


def test_an_answer_that_holds_a_word_like_the_key_is_read_all_the_same(serve, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "grade")
    reply, _ = ask(serve(**RIGHT), key="JUDGE_KEY")
    assert reply.outcome == "answered"
    assert '"grade"' in reply.raw


def test_no_more_requests_are_under_way_than_allowed(serve):
    server = serve(delay=0.05)
    highest = 0

    async def everything():
        nonlocal highest
        async with Judge(JudgeConfig("a", server.url, "m", at_once=3)) as judge:
            real, under_way = judge._client.chat.completions.create, 0

            async def counted(**options):
                nonlocal under_way, highest
                under_way += 1
                highest = max(highest, under_way)
                try:
                    return await real(**options)
                finally:
                    under_way -= 1

            judge._client.chat.completions.create = counted
            messages = PROMPT.messages({"query": QUERY, "document": DOCUMENT})
            await asyncio.gather(*(judge.ask(messages, PROMPT.schema) for _ in range(12)))

    asyncio.run(everything())
    assert highest == 3


def test_an_answer_after_thinking_is_asked_once_and_kept_as_it_came(serve):
    text = '<think>\n也许 {"grade": 1}？\n</think>\n\n{"reason": "好", "grade": 4}'
    reply, _ = ask(serve(judges={"m": {"faults": {"always": "broken", "text": text}}}))
    assert (reply.outcome, reply.values, reply.raw) == ("answered", {"reason": "好", "grade": 4}, text)
    assert reply.first_raw is None


def test_what_a_server_sends_as_reasoning_is_no_answer(serve):
    fault = {"always": "broken", "text": "", "message": {"reasoning_content": '{"reason": "好", "grade": 4}'}}
    reply, _ = ask(serve(judges={"m": {"faults": fault}}))
    assert (reply.outcome, reply.error) == ("unreadable", "it is empty")


def test_complete_returns_the_values_or_says_why_not(serve):
    good, bad = serve(**RIGHT), serve(judges={"m": {"faults": {"always": "broken"}}})

    async def complete(server):
        async with Judge(JudgeConfig("a", server.url, "m")) as judge:
            return await judge.complete(
                PROMPT.messages({"query": QUERY, "document": DOCUMENT}), PROMPT.schema
            )

    assert asyncio.run(complete(good))["grade"] >= 4
    with pytest.raises(CareError, match="judge 'a': it is not JSON"):
        asyncio.run(complete(bad))


def test_tokens_are_estimated_by_characters():
    assert estimate_tokens("高血压") == 3
    assert estimate_tokens("高血压 abcdefg") == 5
    assert estimate_tokens("") == 0


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("http://127.0.0.1:8000/v1", True),
        ("http://localhost/v1", True),
        ("http://[::1]:8000/v1", True),
        ("http://10.1.2.3/v1", True),
        ("http://172.31.0.1/v1", True),
        ("http://192.168.1.5/v1", True),
        ("http://[::ffff:127.0.0.1]/v1", True),
        ("http://8.8.8.8/v1", False),
        ("http://172.32.0.1/v1", False),
        ("http://[::ffff:8.8.8.8]/v1", False),
        ("http://203.0.113.1/v1", False),
        ("http://0.0.0.0/v1", False),
        ("http://nowhere.invalid/v1", False),
    ],
)
def test_only_this_machine_and_private_networks_are_local(address, local):
    assert is_local(address) is local


def test_a_name_is_local_if_all_its_addresses_are(monkeypatch):
    def found(*addresses):
        monkeypatch.setattr(
            socket, "getaddrinfo", lambda *_, **__: [(2, 1, 6, "", (a, 0)) for a in addresses]
        )

    found("10.0.0.1", "192.168.0.1")
    assert is_local("http://judge/v1")
    found("10.0.0.1", "8.8.8.8")
    assert not is_local("http://judge/v1")


def test_texts_leave_the_machine_only_if_that_is_allowed_and_without_personal_data():
    abroad = JudgeConfig("a", "https://8.8.8.8/v1", "m")
    with pytest.raises(CareError, match="judging: remote: true"):
        check_endpoints([abroad], Judging())
    with pytest.raises(CareError, match="redact: false is for local endpoints only"):
        check_endpoints([abroad], Judging(remote=True, redact=False))
    check_endpoints([abroad], Judging(remote=True))
    check_endpoints([JudgeConfig("a", "http://127.0.0.1/v1", "m")], Judging(redact=False))
    with pytest.raises(CareError, match="no judge is configured"):
        check_endpoints([], Judging())
