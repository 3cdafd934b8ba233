"""`python -m hjepa`, which torchrun starts."""

import sys

from hjepa.cli import main

sys.exit(main())
