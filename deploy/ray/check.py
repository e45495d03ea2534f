"""Checks a file of `ray up` as that command does, with nothing started."""

import sys
from pathlib import Path

import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

try:
    validate_config(prepare_config(yaml.safe_load(Path(sys.argv[1]).read_text(encoding="utf-8"))))
except Exception as cause:
    sys.exit(f"{sys.argv[1]}: {getattr(cause, 'message', cause)}")
