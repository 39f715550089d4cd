"""Search for the most accurate subnet within a budget, and proof by measuring."""
