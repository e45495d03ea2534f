"""An ablation of the training of care-mini, and what it measured."""
