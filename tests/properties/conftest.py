"""How many examples a property is tried on: always the same ones, so that a failure is there again.

With ``GRADSCOPE_EXAMPLES=many`` in the environment it is 200, which takes some of them a quarter of an hour.
"""

import os

from hypothesis import HealthCheck, settings

COMMON = settings(
    derandomize=True,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.register_profile("few", COMMON, max_examples=30)
settings.register_profile("many", COMMON, max_examples=200)
settings.load_profile(os.environ.get("GRADSCOPE_EXAMPLES", "few"))
