"""Markers of tests by what they need, and the order in which workers run them."""

from pathlib import Path

import pytest
from xdist.scheduler import LoadScopeScheduling

# The slowest come first, so that no worker waits for them at the end. Paths below tests/.
_LONGEST = (
    "test_native.py",
    "serving/test_faults.py",
    "bench/test_suites.py",
    "test_packaging.py",
    "training/test_processes.py",
    "collection/test_writing.py",
    "test_examples.py",
    "test_retriever.py",
    "serving/test_command.py",
    "serving/test_encoder_model.py",
    "curation/labels/test_judging.py",
    "serving/test_engines_served.py",
    "export",
    "training",
    "eval/test_real_data.py",
    "curation/test_real_data.py",
)
# Markers by fixture.
_NEEDS = {"care_server": "server", "require_server": "server", "chromium": "browser"}
# Tests that train, export or evaluate for seconds; `make quick` leaves them out.
_SLOW = (
    *("training", "export", "encoding/test_last_layer.py", "eval/statistics/test_significance.py"),
    *("curation/labels/test_judging.py", "eval/test_real_data.py", "curation/test_real_data.py"),
    "bench/test_suites.py",
)
_FOLDER = Path(__file__).parents[1]


class Scheduling(LoadScopeScheduling):
    """Gives workers one file after another, in the order in which tests were collected.

    So the fixtures of a module are created once. Groups of xdist are not used: release 3.8 loses their names with pytest 9.
    """

    def __init__(self, config: pytest.Config, log: object) -> None:
        config.option.loadscopereorder = False
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        return nodeid.partition("::")[0]


def mark_and_order(items: list[pytest.Item]) -> None:
    """Mark tests by what they need, and put the slowest first."""
    places = {}
    for item in items:
        path = item.path.relative_to(_FOLDER).as_posix()
        for fixture in getattr(item, "fixturenames", ()):
            if need := _NEEDS.get(fixture):
                item.add_marker(need)
        if _below(path, _SLOW):
            item.add_marker("slow")
        places[item] = next((i for i, one in enumerate(_LONGEST) if _below(path, (one,))), len(_LONGEST))
    items.sort(key=places.__getitem__)


def _below(path: str, folders: tuple[str, ...]) -> bool:
    return any(path == one or path.startswith(f"{one}/") for one in folders)
