"""All example agents and teams: serve them as `examples.agents:agents`."""

from examples.desk import desk
from examples.example import Example
from examples.teams import Gallery, research
from examples.toolbox import toolbox
from examples.vision import Vision

agents = [Example, toolbox(), Vision, desk(), research(), Gallery]
