"""ebrl: energies, samplers, objectives and estimators for agents, vision and sequences."""

from ebrl.adaptation import DualAveraging as DualAveraging
from ebrl.energies import Energy as Energy
from ebrl.energies import FunctionEnergy as FunctionEnergy
from ebrl.energies import Gaussian as Gaussian
from ebrl.energies import Mixture as Mixture
from ebrl.sampler import Sampler as Sampler
from ebrl.sampler import Samples as Samples
