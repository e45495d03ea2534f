"""Shared code of the models that run in the server."""

# Environment variable: a temporary folder of one run of the server, where its models' processes share what they made.
RUN_FOLDER = "CARE_ACCEL_RUN_FOLDER"

# Name of this package's own backend of the server, which runs a model in the server's process (csrc/backend/).
IN_PROCESS = "care"
