"""Networks: how they are built, what they start from, how they learn."""
