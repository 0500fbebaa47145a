"""Measurements: every figure is a median, and a share of what this machine can do."""
