"""`python -m uda_jax.report`: see `uda_jax.reporting.page`."""

import sys

from uda_jax.reporting.page import main

if __name__ == "__main__":
    sys.exit(main())
