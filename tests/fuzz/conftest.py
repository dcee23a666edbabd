"""How many inputs: some in every test run, `scripts/fuzz` asks for more."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "inputs",
    max_examples=int(os.environ.get("FUZZ_INPUTS", "60")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("inputs")
