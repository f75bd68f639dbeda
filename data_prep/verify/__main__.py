"""`python -m data_prep.verify`: see `data_prep.verify.check`."""

import sys

from data_prep.verify.check import main

if __name__ == "__main__":
    sys.exit(main())
