"""What is measured: one probe a file.

A probe is told of the moments of a recorded step and answers with tensors on the device; when the one copy of the
record has reached the host, it turns its share of the numbers into metrics. Adding a probe means adding a file here
and its class to `PROBES`: the callback, the log, the reader and the reports take metrics as they come.
"""

from gradscope.probes.activity import ActivityProbe
from gradscope.probes.gradients import GradientProbe
from gradscope.probes.liveness import LivenessProbe
from gradscope.probes.probe import Probe
from gradscope.probes.updates import UpdateProbe

PROBES: tuple[type[Probe], ...] = (GradientProbe, UpdateProbe, ActivityProbe, LivenessProbe)
"""In the order in which their metrics stand in a log."""

__all__ = ["PROBES", "Probe"]
