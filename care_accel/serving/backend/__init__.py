"""Shared code of the Python backend models."""

# Environment variable: a temporary folder of one run of the server, where its models' processes share what they made.
RUN_FOLDER = "CARE_ACCEL_RUN_FOLDER"
