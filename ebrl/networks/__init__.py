"""Networks: trainable energies."""

from ebrl.networks.convolutional import ConvEnergy as ConvEnergy
from ebrl.networks.convolutional import ImageEnergy as ImageEnergy
from ebrl.networks.convolutional import NoisyImageEnergy as NoisyImageEnergy
from ebrl.networks.convolutional import ResNetEnergy as ResNetEnergy
from ebrl.networks.mlp import BoundMLP as BoundMLP
from ebrl.networks.mlp import MLPEnergy as MLPEnergy
