"""`python -m orchestrator.cli` is `hjepa-sweep`."""

import sys

from orchestrator.cli import main

sys.exit(main())
