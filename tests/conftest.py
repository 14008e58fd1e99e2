"""What holds for every test."""

from hypothesis import HealthCheck, settings

# A verdict says nothing of how fast the machine is; a failure prints what replays it.
settings.register_profile("bmsota", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("bmsota")
