"""Settings of all tests."""

from __future__ import annotations

import os
import signal

from hypothesis import settings

# A busy machine is no failure, hence no deadline. CI tries the same examples each time, so that it cannot flicker.
settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")

# A shell starts background jobs with SIGINT ignored, and every process that a test starts would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
