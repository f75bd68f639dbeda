"""`python -m uda_jax.weights`: see `uda_jax.weights.convert`."""

import sys

from uda_jax.weights.convert import main

if __name__ == "__main__":
    sys.exit(main())
