"""What is kept from the garbage collector, and that nobody hears of it."""

import subprocess
import sys

PROGRAM = """
import gc
import torch._dynamo  # which loads Triton where it is installed
from orchestrator.process.collector import keep_for_good
keep_for_good()
print(gc.get_freeze_count() > 0)
"""


def test_a_process_that_keeps_its_record_ends_without_a_word():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")
