"""Probes: what is measured at a point of a bridge."""

from isthmus.probes.backdoor import Backdoor as Backdoor
from isthmus.probes.clean import Clean as Clean
from isthmus.probes.dead_layers import DeadLayers as DeadLayers
from isthmus.probes.distance import Distance as Distance
from isthmus.probes.input_hessian import InputHessian as InputHessian
from isthmus.probes.protocol import Probe as Probe
from isthmus.probes.robust import Robust as Robust
from isthmus.probes.weight_hessian import Sharpness as Sharpness
from isthmus.probes.weight_hessian import Trace as Trace
