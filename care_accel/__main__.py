"""``python -m care_accel``: the command line, where no script can be named (as behind ``torchrun -m``)."""

import sys

from care_accel.cli import main

sys.exit(main())
