"""Probes: what is measured at a point of a bridge."""

from isthmus.probes.backdoor import Backdoor as Backdoor
from isthmus.probes.clean import Clean as Clean
from isthmus.probes.distance import Distance as Distance
from isthmus.probes.protocol import Probe as Probe
