"""The one exception for what a user can mend."""


class CareError(ValueError):
    """A mistake that the caller can mend: one line that says what, where, and how to mend it.

    Command lines print the line and exit with code 2; they show no traceback for it.
    """
