"""Objectives: how to change an energy's weights, all with the protocol of `objectives.protocol`."""

from ebrl.objectives.classification import CrossEntropy as CrossEntropy
from ebrl.objectives.classification import JointClassification as JointClassification
from ebrl.objectives.contrastive import ContrastiveDivergence as ContrastiveDivergence
from ebrl.objectives.contrastive import (
    ImprovedContrastiveDivergence as ImprovedContrastiveDivergence,
)
from ebrl.objectives.defaults import persistent as persistent
from ebrl.objectives.defaults import persistent_around as persistent_around
from ebrl.objectives.discrete import PseudoLikelihood as PseudoLikelihood
from ebrl.objectives.discrete import RatioMatching as RatioMatching
from ebrl.objectives.energy_discrepancy import (
    DiscreteEnergyDiscrepancy as DiscreteEnergyDiscrepancy,
)
from ebrl.objectives.energy_discrepancy import EnergyDiscrepancy as EnergyDiscrepancy
from ebrl.objectives.energy_matching import EnergyMatching as EnergyMatching
from ebrl.objectives.generator import LearnedGenerator as LearnedGenerator
from ebrl.objectives.noise_contrast import NCE as NCE
from ebrl.objectives.noise_contrast import InfoNCE as InfoNCE
from ebrl.objectives.noise_contrast import NormalNoise as NormalNoise
from ebrl.objectives.protocol import Loss as Loss
from ebrl.objectives.protocol import Objective as Objective
from ebrl.objectives.recovery import RecoveryLikelihood as RecoveryLikelihood
from ebrl.objectives.score_matching import DenoisingScoreMatching as DenoisingScoreMatching
from ebrl.objectives.score_matching import ExactScoreMatching as ExactScoreMatching
from ebrl.objectives.score_matching import SlicedScoreMatching as SlicedScoreMatching
