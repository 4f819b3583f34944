"""Settings for every test: hypothesis runs the same examples everywhere, whatever the environment says."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("anqfs", deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
settings.load_profile("anqfs")
