"""Weights in and out: names and layouts, and the files of other programs."""
