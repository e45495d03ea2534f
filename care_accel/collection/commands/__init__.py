"""Command lines of collections: ``care-accel index``, ``search``, ``delete`` and ``collection``."""
