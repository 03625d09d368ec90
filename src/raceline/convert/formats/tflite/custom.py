"""Custom operators that real models use: detection's last step, and MediaPipe's."""

from __future__ import annotations

from raceline.convert.lower import Rules

rules = Rules()
