"""One judge: a chat endpoint that is asked until there is an answer of the right form, or a reason why not."""

from __future__ import annotations

import asyncio
import json
import math
import random
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal, Self

from care_accel.curation.config import JudgeConfig
from care_accel.curation.judges.endpoints import api_key, make_client
from care_accel.curation.judges.prompting import Message
from care_accel.curation.judges.rate_limit import Pace
from care_accel.errors import CareError

Outcome = Literal["answered", "unreadable", "unanswered"]

_PASSING = (408, 409, 425, 429)
_STOPPING = (401, 403, 404)
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 60.0
# What an answer is thought to take before any was seen.
ANSWER_TOKENS = 80
_CJK = re.compile(r"[\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef]")
_LONGEST_ERROR = 300
_SHORTEST_KEY = 8


class JudgeStopped(CareError):
    """An endpoint that refuses every request alike, as with a wrong key: no further pair is tried."""


@dataclass(frozen=True)
class Reply:
    """What came of asking once.

    Attributes
    ----------
    outcome : {"answered", "unreadable", "unanswered"}
        The answer has the right form; it has not, after a second chance; there is none.
    values : dict or None
        The answer, of the schema that was asked for.
    raw, first_raw : str or None
        The answer as it came; the broken one before it, if there was one.
    error : str or None
        Why there are no values.
    tokens_in, tokens_out : int
        As the endpoint counted them, for all requests that it answered.
    model : str or None
        What the endpoint says that it is.
    refused : bool
        There is no answer because the endpoint refuses this very request, such as by a filter of contents.
    """

    outcome: Outcome
    values: dict[str, Any] | None = None
    raw: str | None = None
    first_raw: str | None = None
    error: str | None = None
    tokens_in: int = 0
    tokens_out: int = 0
    model: str | None = None
    refused: bool = False


class Judge:
    """An endpoint with its limits; an asynchronous context manager.

    Parameters
    ----------
    config : JudgeConfig
        Whether its texts may be sent is not looked at here: `check_endpoints`.
    sleep : callable
        Replaced in tests.
    """

    def __init__(
        self, config: JudgeConfig, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self.config = config
        self._key = api_key(config)
        self._client = make_client(config)
        self._pace = Pace(config.requests_a_minute, config.tokens_a_minute, sleep=sleep)
        self._slots = asyncio.Semaphore(config.at_once)
        self._sleep = sleep

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def complete(self, messages: Sequence[Message], schema: Mapping[str, Any]) -> dict[str, Any]:
        """Return an answer of the right form.

        Raises
        ------
        CareError
            There is none; the reason is named.
        """
        reply = await self.ask(messages, schema)
        if reply.values is None:
            raise CareError(f"judge {self.config.name!r}: {reply.error}")
        return reply.values

    async def ask(self, messages: Sequence[Message], schema: Mapping[str, Any]) -> Reply:
        """Ask; a broken answer is shown to the judge once, with what is wrong with it.

        Parameters
        ----------
        messages : sequence of dict
            ``role`` and ``content``.
        schema : mapping
            JSON schema of an object, of the kind in `care_accel.curation.judges.prompting`.

        Returns
        -------
        Reply

        Raises
        ------
        JudgeStopped
            The endpoint refuses the key, the model or the address.
        """
        async with self._slots:
            talk, first, tokens_in, tokens_out = list(messages), None, 0, 0
            for chance in (1, 2):
                try:
                    response = await self._request(talk, schema)
                except _Failure as failure:
                    outcome: Outcome = "unanswered" if first is None else "unreadable"
                    told = (str(failure), tokens_in, tokens_out)
                    return Reply(outcome, None, None, first, *told, refused=failure.refused)
                usage = response.usage
                tokens_in += getattr(usage, "prompt_tokens", 0) or 0
                tokens_out += getattr(usage, "completion_tokens", 0) or 0
                said = response.choices[0].message.content or ""
                values, wrong = read_answer(said, schema)
                raw = self._without_key(said)
                if wrong and response.choices[0].finish_reason == "length":
                    wrong = f"it was cut off at max_tokens; {wrong}"
                spent: dict[str, Any] = {"first_raw": first, "tokens_in": tokens_in, "tokens_out": tokens_out}
                model = self._without_key(response.model) if response.model else None
                if wrong is None:
                    return Reply("answered", values, raw, model=model, **spent)
                if chance == 2:
                    return Reply("unreadable", None, raw, error=wrong, model=model, **spent)
                first = raw
                talk += [
                    {"role": "assistant", "content": raw},
                    {"role": "user", "content": _REPAIR.format(wrong)},
                ]
        raise AssertionError

    async def _request(self, messages: Sequence[Message], schema: Mapping[str, Any]) -> Any:
        """Send one request, again after failures that may pass."""
        import openai

        config = self.config
        options: dict[str, Any] = {"temperature": config.temperature}
        if config.seed is not None:
            options["seed"] = config.seed
        if config.max_tokens is not None:
            options["max_tokens"] = config.max_tokens
        if config.answer == "schema":
            form = {"name": "answer", "strict": True, "schema": schema}
            options["response_format"] = {"type": "json_schema", "json_schema": form}
        elif config.answer == "json":
            options["response_format"] = {"type": "json_object"}
        estimated = sum(estimate_tokens(message["content"]) for message in messages) + ANSWER_TOKENS
        for attempt in range(config.retries + 1):
            await self._pace.wait(estimated)
            wait = backoff(attempt)
            try:
                # The client's own time is that between two bytes: one that sends a byte now and then never ends.
                async with asyncio.timeout(config.timeout):
                    response = await self._client.chat.completions.create(
                        model=config.model,
                        messages=list(messages),  # type: ignore[arg-type]
                        **options,
                    )
            except openai.APIStatusError as cause:
                problem = f"HTTP {cause.status_code}: {self._said(cause)}"
                if cause.status_code in _STOPPING:
                    raise JudgeStopped(
                        f"judge {config.name!r}: {config.base_url} refuses: {problem}"
                    ) from None
                if cause.status_code < 500 and cause.status_code not in _PASSING:
                    raise _Failure(problem, refused=True) from None
                if (asked := retry_after(cause.response.headers)) is not None:
                    wait = asked
                    self._pace.pause(asked)
            except (openai.APITimeoutError, TimeoutError):
                problem = f"no answer within {config.timeout:g} s"
            except openai.APIConnectionError as cause:
                problem = (
                    f"no connection: {self._without_key(str(cause.__cause__ or cause))[:_LONGEST_ERROR]}"
                )
            except (openai.APIError, ValueError, TypeError) as cause:  # an answer that is no completion
                problem = f"no chat completion: {self._without_key(str(cause))[:_LONGEST_ERROR]}"
            else:
                if getattr(response, "choices", None):
                    used = getattr(response.usage, "total_tokens", None)
                    self._pace.settle(estimated, estimated if used is None else used)
                    return response
                problem = "no chat completion: it holds no choice"
            if attempt < config.retries:
                await self._sleep(wait)
        raise _Failure(f"{problem}, after {config.retries + 1} tries")

    def _said(self, cause: Any) -> str:
        message = cause.body.get("message") if isinstance(cause.body, dict) else None
        return self._without_key(" ".join(str(message or "no reason given").split()))[:_LONGEST_ERROR]

    def _without_key(self, text: str) -> str:
        """Endpoints have been seen to repeat the key in their errors."""
        # A word that is no key but stands for none, such as "x", is part of other words.
        return text.replace(self._key, "***") if len(self._key) >= _SHORTEST_KEY else text


class _Failure(Exception):
    """A request that got no answer."""

    def __init__(self, problem: str, *, refused: bool = False) -> None:
        super().__init__(problem)
        self.refused = refused


_REPAIR = (
    "上面的回答不符合要求的格式（{}）。请重新回答，只输出一个符合要求的 JSON 对象，不要输出任何其他文字。"
)


def read_answer(raw: str, schema: Mapping[str, Any]) -> tuple[dict[str, Any] | None, str | None]:
    """Return the values of an answer, or what is wrong with it.

    A fence of three backticks around the object is taken off; words around it are not: who writes them did not
    do what was asked. Numbers are whole numbers, not texts.
    """
    text = raw.strip()
    if fenced := re.fullmatch(r"```(?:json)?\s*(.*?)\s*```", text, re.DOTALL):
        text = fenced[1]
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return None, "it is no JSON" if text else "it is empty"
    if not isinstance(values, dict):
        return None, "it is no JSON object"
    properties = schema["properties"]
    for name in schema["required"]:
        if name not in values:
            return None, f"{name} is missing"
        value, rule = values[name], properties[name]
        if rule["type"] == "integer" and (isinstance(value, bool) or not isinstance(value, int)):
            return None, f"{name} is no whole number"
        if rule["type"] == "string" and not isinstance(value, str):
            return None, f"{name} is no text"
        if "enum" in rule and value not in rule["enum"]:
            return None, f"{name} is none of {rule['enum']}"
    return {name: values[name] for name in properties if name in values}, None


def backoff(attempt: int) -> float:
    """Return seconds to wait after a try, from 0: between half and all of 0.5, 1, 2, 4 ... up to 60."""
    # The other half is drawn, so that requests which failed together do not come back together.
    longest = min(_LONGEST_WAIT, _FIRST_WAIT * 2**attempt)
    return longest * random.uniform(0.5, 1.0)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a Retry-After asks for, a number or a date; None without one."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        except (TypeError, ValueError):
            return None
    return min(max(0.0, seconds), 600.0) if math.isfinite(seconds) else None


def estimate_tokens(text: str) -> int:
    """Estimate the tokens of a text: one a Chinese character, one for four others; real counts differ by model."""
    chinese = len(_CJK.findall(text))
    return chinese + math.ceil((len(text) - chinese) / 4)
