"""What a worker answers to a ping of `supervisor.Child`."""

from __future__ import annotations

import struct

PULSE = struct.Struct("<Q")
"""Nanoseconds since the current step began, 0 between two steps."""
