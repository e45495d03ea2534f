"""What a stage of a recipe does: one module a method."""
