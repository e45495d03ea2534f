"""The adapters where their frameworks are not installed."""

import subprocess
import sys

import pytest

# A finder in front of all others, so that this holds where the frameworks are installed too.
ABSENT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("langchain_core", "llama_index", "haystack"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name.partition(".")[0])
sys.meta_path.insert(0, Absent())
import care_accel, care_accel.integrations
from care_accel.integrations import models, passages
from care_accel import CareError
for name, package in (("langchain", "langchain_core"), ("llamaindex", "llama_index"), ("haystack", "haystack")):
    try:
        __import__(f"care_accel.integrations.{name}")
    except CareError as missing:
        assert str(missing) == f"{package} is not installed: pip install 'care-accel[{name}]'", missing
        assert missing.__cause__ is None and missing.__suppress_context__
    else:
        raise AssertionError(name)
"""


def test_a_missing_framework_is_one_line_that_names_its_extra():
    subprocess.run([sys.executable, "-c", ABSENT], check=True)


@pytest.mark.parametrize("module", ["care_accel", "care_accel.integrations"])
def test_no_framework_is_imported_before_its_adapter(module):
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {name.split(".")[0] for name in loaded.split()} & {"langchain_core", "llama_index", "haystack"}
