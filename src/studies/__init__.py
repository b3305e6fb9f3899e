"""Searches for hyperparameters that outlive their processes."""
