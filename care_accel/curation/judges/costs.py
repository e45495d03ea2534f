"""Cost estimate of pending requests to a judge."""

from __future__ import annotations

from care_accel.curation.config import JudgeConfig

COST_COLUMNS = ("tokens in", "tokens out", "cost", "at least minutes")


def estimate_costs(
    judge: JudgeConfig, requests: int, tokens_in: int, tokens_out: int
) -> tuple[float, tuple[str, ...]]:
    """Return the cost of requests at a judge's prices, and table cells for `COST_COLUMNS`.

    Minutes are a lower bound from the judge's rate limits; its response time is unknown.
    """
    cost = (tokens_in * judge.price.input + tokens_out * judge.price.output) / 1e6
    minutes = max(
        requests / (judge.requests_a_minute or float("inf")),
        (tokens_in + tokens_out) / (judge.tokens_a_minute or float("inf")),
    )
    return cost, (f"{tokens_in:,}", f"{tokens_out:,}", f"{cost:.2f}", f"{minutes:.1f}")
