"""Benchmarks: scripts that measure ratios and counts, never tests."""
