"""For all tests."""

import signal
import sys
from importlib.util import find_spec
from pathlib import Path

# a shell's background jobs ignore SIGINT, and so would every program that a test starts and interrupts
signal.signal(signal.SIGINT, signal.default_int_handler)

# needs system libraries, so `make setup` may have gone on without it, and said so
collect_ignore = [] if find_spec("ffcv") else ["shards/test_beton_in_ffcv.py"]
sys.path.append(str(Path(__file__).parent))  # what several folders share: forgery.py
