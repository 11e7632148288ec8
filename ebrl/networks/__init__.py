"""Networks: trainable energies."""

from ebrl.networks.bound import BoundMLP as BoundMLP
from ebrl.networks.convolutional import ConvEnergy as ConvEnergy
from ebrl.networks.linear import EnsembleLinear as EnsembleLinear
from ebrl.networks.mlp import MLPEnergy as MLPEnergy
