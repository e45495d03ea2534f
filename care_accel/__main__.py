"""``python -m care_accel``: the command line, for launchers that need a module, such as ``torchrun -m``."""

import sys

from care_accel.cli import main

sys.exit(main())
