"""``python -m care_accel.eval``."""

from care_accel.eval.command import main

if __name__ == "__main__":
    raise SystemExit(main())
