"""A finished model at work: what it says of pictures that nobody labelled."""
