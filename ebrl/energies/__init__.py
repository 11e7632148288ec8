"""Energies: what an energy is, how energies compose, and targets whose answers are known."""

from ebrl.energies.analytic import Banana as Banana
from ebrl.energies.analytic import DoubleWell as DoubleWell
from ebrl.energies.analytic import Funnel as Funnel
from ebrl.energies.analytic import GaussianMixture as GaussianMixture
from ebrl.energies.analytic import Ring as Ring
from ebrl.energies.analytic import TruncatedGaussian as TruncatedGaussian
from ebrl.energies.classifier import ClassifierEnergy as ClassifierEnergy
from ebrl.energies.energy import Energy as Energy
from ebrl.energies.energy import Flattened as Flattened
from ebrl.energies.energy import FunctionEnergy as FunctionEnergy
from ebrl.energies.energy import Mixture as Mixture
from ebrl.energies.energy import Number as Number
from ebrl.energies.energy import Sum as Sum
from ebrl.energies.energy import Weighted as Weighted
from ebrl.energies.energy import align_left as align_left
from ebrl.energies.energy import check_energy as check_energy
from ebrl.energies.energy import check_one_number_each as check_one_number_each
from ebrl.energies.energy import first_order as first_order
from ebrl.energies.energy import over_event as over_event
from ebrl.energies.gaussian import Gaussian as Gaussian
from ebrl.energies.gaussian import Target as Target
from ebrl.energies.lattices import RBM as RBM
from ebrl.energies.lattices import Ising as Ising
from ebrl.energies.lattices import Potts as Potts
from ebrl.energies.lattices import square_lattice as square_lattice
from ebrl.energies.repulsion import Repulsion as Repulsion
