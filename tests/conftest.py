"""Tests run on one thread each: two that wait for each other on a busy machine are slower than one.

What hypothesis draws is the same every time, however long it takes: a busy machine is no failure.
"""

import torch
from hypothesis import HealthCheck, settings

collect_ignore = ["flower_apps"]
"""Apps are loaded as Flower does it, and by nobody before."""

torch.set_num_threads(1)
CALM = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
settings.register_profile("calm", deadline=None, derandomize=True, database=None, suppress_health_check=CALM)
settings.load_profile("calm")
