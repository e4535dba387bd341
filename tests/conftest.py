"""Settings of all tests."""

from __future__ import annotations

import os

from hypothesis import settings

# A busy machine is no failure, hence no deadline. CI tries the same examples each time, so that it cannot flicker.
settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")
