"""Client of one judge: sends requests with rate limits and retries, and parses structured answers."""

from __future__ import annotations

import asyncio
import math
import random
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal, Self

from care_accel.curation.config import JudgeConfig
from care_accel.curation.judges.answers import parse_answer
from care_accel.curation.judges.endpoints import api_key, make_client
from care_accel.curation.judges.prompting import Message
from care_accel.curation.judges.rate_limit import RateLimiter
from care_accel.errors import CareError

Outcome = Literal["answered", "unreadable", "unanswered"]

_RETRYABLE = (408, 409, 425, 429)
_FATAL = (401, 403, 404)
_BACKOFF_BASE_S, _BACKOFF_MAX_S = 0.5, 60.0
# Estimated length of an answer before any was received.
DEFAULT_ANSWER_TOKENS = 80
_CJK = re.compile(r"[\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef]")
_MAX_ERROR_CHARACTERS = 300
_MIN_KEY_CHARACTERS = 8


class JudgeUnavailable(CareError):
    """An endpoint that rejects all requests, e.g. for a wrong key: no further pair is sent."""


@dataclass(frozen=True)
class Reply:
    """Result of judging one pair.

    Attributes
    ----------
    outcome : {"answered", "unreadable", "unanswered"}
        Valid answer; answer still invalid after one repair request; no answer.
    values : dict or None
        The parsed answer, by the requested schema.
    raw, first_raw : str or None
        The raw answer; the invalid one before it, if there was one.
    error : str or None
        Why there are no values.
    tokens_in, tokens_out : int
        Usage as reported by the endpoint, over all requests of this pair.
    model : str or None
        Model name reported by the endpoint.
    refused : bool
        The endpoint rejected this particular request, e.g. by a content filter.
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
    """Client of a judge's endpoint, with its rate limits; an asynchronous context manager.

    Parameters
    ----------
    config : JudgeConfig
        `check_endpoints` decides whether texts may be sent; it is not checked here.
    sleep : callable
        Replaced in tests.
    """

    def __init__(
        self, config: JudgeConfig, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self.config = config
        self._key = api_key(config)
        self._client = make_client(config)
        self._rate_limiter = RateLimiter(config.requests_a_minute, config.tokens_a_minute, sleep=sleep)
        self._slots = asyncio.Semaphore(config.at_once)
        self._sleep = sleep

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def complete(self, messages: Sequence[Message], schema: Mapping[str, Any]) -> dict[str, Any]:
        """Return a valid answer.

        Raises
        ------
        CareError
            There is none; the message has the reason.
        """
        reply = await self.ask(messages, schema)
        if reply.values is None:
            raise CareError(f"judge {self.config.name!r}: {reply.error}")
        return reply.values

    async def ask(self, messages: Sequence[Message], schema: Mapping[str, Any]) -> Reply:
        """Send a request; an invalid answer is sent back once for repair, with the parse error.

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
        JudgeUnavailable
            The endpoint rejects the key, the model or the URL.
        """
        async with self._slots:
            conversation, first, tokens_in, tokens_out = list(messages), None, 0, 0
            for attempt in (1, 2):
                try:
                    response = await self._request(conversation, schema)
                except _RequestFailed as failure:
                    outcome: Outcome = "unanswered" if first is None else "unreadable"
                    details = (str(failure), tokens_in, tokens_out)
                    return Reply(outcome, None, None, first, *details, refused=failure.refused)
                usage = response.usage
                tokens_in += getattr(usage, "prompt_tokens", 0) or 0
                tokens_out += getattr(usage, "completion_tokens", 0) or 0
                content = response.choices[0].message.content or ""
                values, problem = parse_answer(content, schema)
                raw = self._mask_key(content)
                if problem and response.choices[0].finish_reason == "length":
                    problem = f"it was cut off at max_tokens; {problem}"
                spent: dict[str, Any] = {"first_raw": first, "tokens_in": tokens_in, "tokens_out": tokens_out}
                model = self._mask_key(response.model) if response.model else None
                if problem is None:
                    return Reply("answered", values, raw, model=model, **spent)
                if attempt == 2:
                    return Reply("unreadable", None, raw, error=problem, model=model, **spent)
                first = raw
                conversation += [
                    {"role": "assistant", "content": raw},
                    {"role": "user", "content": _REPAIR.format(problem)},
                ]
        raise AssertionError

    async def _request(self, messages: Sequence[Message], schema: Mapping[str, Any]) -> Any:
        """Send one request; retry transient failures with backoff."""
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
        estimated = sum(estimate_tokens(message["content"]) for message in messages) + DEFAULT_ANSWER_TOKENS
        for attempt in range(config.retries + 1):
            await self._rate_limiter.acquire(estimated)
            wait = backoff(attempt)
            try:
                # The client's own timeout is between two bytes, so a slow drip of bytes would never time out.
                async with asyncio.timeout(config.timeout):
                    response = await self._client.chat.completions.create(
                        model=config.model,
                        messages=list(messages),  # type: ignore[arg-type]
                        **options,
                    )
            except openai.APIStatusError as cause:
                problem = f"HTTP {cause.status_code}: {self._error_message(cause)}"
                if cause.status_code in _FATAL:
                    raise JudgeUnavailable(
                        f"judge {config.name!r}: {config.base_url} rejects all requests: {problem}"
                    ) from None
                if cause.status_code < 500 and cause.status_code not in _RETRYABLE:
                    raise _RequestFailed(problem, refused=True) from None
                if (delay := retry_after(cause.response.headers)) is not None:
                    wait = delay
                    self._rate_limiter.pause(delay)
            except (openai.APITimeoutError, TimeoutError):
                problem = f"no answer within {config.timeout:g} s"
            except openai.APIConnectionError as cause:
                problem = (
                    f"no connection: {self._mask_key(str(cause.__cause__ or cause))[:_MAX_ERROR_CHARACTERS]}"
                )
            except (openai.APIError, ValueError, TypeError) as cause:  # not a valid chat completion
                problem = f"invalid chat completion: {self._mask_key(str(cause))[:_MAX_ERROR_CHARACTERS]}"
            else:
                if getattr(response, "choices", None):
                    used = getattr(response.usage, "total_tokens", None)
                    self._rate_limiter.record_usage(estimated, estimated if used is None else used)
                    return response
                problem = "invalid chat completion: it has no choices"
            if attempt < config.retries:
                await self._sleep(wait)
        raise _RequestFailed(f"{problem}, after {config.retries + 1} attempts")

    def _error_message(self, cause: Any) -> str:
        message = cause.body.get("message") if isinstance(cause.body, dict) else None
        return self._mask_key(" ".join(str(message or "no reason given").split()))[:_MAX_ERROR_CHARACTERS]

    def _mask_key(self, text: str) -> str:
        """Mask the API key: some endpoints echo it in error messages."""
        # A short placeholder such as "x" would also match inside words.
        return text.replace(self._key, "***") if len(self._key) >= _MIN_KEY_CHARACTERS else text


class _RequestFailed(Exception):
    """A request that failed."""

    def __init__(self, problem: str, *, refused: bool = False) -> None:
        super().__init__(problem)
        self.refused = refused


_REPAIR = (
    "上面的回答不符合要求的格式（{}）。请重新回答，只输出一个符合要求的 JSON 对象，不要输出任何其他文字。"
)


def backoff(attempt: int) -> float:
    """Return the delay in seconds after an attempt, counted from 0: 0.5, 1, 2, 4 ... up to 60, times 0.5 to 1."""
    # Jitter, so that requests which failed together are not retried together.
    longest = min(_BACKOFF_MAX_S, _BACKOFF_BASE_S * 2**attempt)
    return longest * random.uniform(0.5, 1.0)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the delay in seconds of a Retry-After header, a number or a date; None without one."""
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
    """Estimate the tokens of a text: one per Chinese character, one per four others; real counts differ by model."""
    chinese = len(_CJK.findall(text))
    return chinese + math.ceil((len(text) - chinese) / 4)
