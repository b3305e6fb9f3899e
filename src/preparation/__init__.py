"""From scenes and labels to a data folder."""
