"""Objectives: how to change an energy's weights, all with the protocol of `objectives.protocol`."""

from ebrl.objectives.protocol import Loss as Loss
from ebrl.objectives.protocol import Objective as Objective
