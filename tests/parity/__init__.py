"""Parity with the published implementations: their arrays, recomputed by this package in float64."""
