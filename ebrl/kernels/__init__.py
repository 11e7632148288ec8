"""Kernels: one move each, side by side, all with the protocol of `ebrl.kernels.protocol`."""

from ebrl.kernels.blocks import Blocks as Blocks
from ebrl.kernels.cycle import Cycle as Cycle
from ebrl.kernels.descent import GradientDescent as GradientDescent
from ebrl.kernels.discrete import DMALA as DMALA
from ebrl.kernels.discrete import DULA as DULA
from ebrl.kernels.discrete import GibbsWithGradients as GibbsWithGradients
from ebrl.kernels.edits import Edits as Edits
from ebrl.kernels.edits import Filling as Filling
from ebrl.kernels.edits import UniformFilling as UniformFilling
from ebrl.kernels.gibbs import BlockGibbs as BlockGibbs
from ebrl.kernels.gibbs import Gibbs as Gibbs
from ebrl.kernels.hamiltonian import GHMC as GHMC
from ebrl.kernels.hamiltonian import HMC as HMC
from ebrl.kernels.hamiltonian import Underdamped as Underdamped
from ebrl.kernels.importance import IndependenceMetropolis as IndependenceMetropolis
from ebrl.kernels.importance import IteratedSIR as IteratedSIR
from ebrl.kernels.importance import Proposal as Proposal
from ebrl.kernels.importance import ReferenceProposal as ReferenceProposal
from ebrl.kernels.langevin import MALA as MALA
from ebrl.kernels.langevin import ULA as ULA
from ebrl.kernels.nuts import NUTS as NUTS
from ebrl.kernels.protocol import Info as Info
from ebrl.kernels.protocol import Kernel as Kernel
from ebrl.kernels.stein import SVGD as SVGD
from ebrl.kernels.tempering import Tempered as Tempered
