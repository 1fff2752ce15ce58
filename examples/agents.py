"""All example agents: serve them as `examples.agents:agents`."""

from examples.example import Example
from examples.toolbox import toolbox
from examples.vision import Vision

agents = [Example, toolbox(), Vision]
