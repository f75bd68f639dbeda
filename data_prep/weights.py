"""The former name of `python -m uda_jax.weights`."""

import sys

from uda_jax.weights.convert import main

if __name__ == "__main__":
    sys.exit(main())
