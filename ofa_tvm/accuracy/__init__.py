"""Accuracy of subnets, measured and predicted."""
