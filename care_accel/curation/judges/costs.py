"""What requests to a judge would take, before any is sent."""

from __future__ import annotations

from care_accel.curation.config import JudgeConfig

COSTS = ("tokens in", "tokens out", "cost", "at least minutes")


def estimate_costs(
    judge: JudgeConfig, requests: int, tokens_in: int, tokens_out: int
) -> tuple[float, tuple[str, ...]]:
    """Return what requests cost by a judge's prices, and cells of a table under `COSTS`.

    Minutes are those that the judge's limits alone make: the time of its answers is not known.
    """
    cost = (tokens_in * judge.price.input + tokens_out * judge.price.output) / 1e6
    minutes = max(
        requests / (judge.requests_a_minute or float("inf")),
        (tokens_in + tokens_out) / (judge.tokens_a_minute or float("inf")),
    )
    return cost, (f"{tokens_in:,}", f"{tokens_out:,}", f"{cost:.2f}", f"{minutes:.1f}")
