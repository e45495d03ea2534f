"""Training methods of a recipe's stages, one module each."""
