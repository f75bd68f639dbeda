"""One experiment a file: `get_config()` returns a locked config; the docstring gives command, cost and result."""
