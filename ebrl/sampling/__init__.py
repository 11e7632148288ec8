"""Sampling: the driver of all kernels, its paths, step sizes and persistent chains."""

from ebrl.sampling.adaptation import DualAveraging as DualAveraging
from ebrl.sampling.chains import ChainBatch as ChainBatch
from ebrl.sampling.chains import Chains as Chains
from ebrl.sampling.checks import StartError as StartError
from ebrl.sampling.paths import Stage as Stage
from ebrl.sampling.paths import noise_path as noise_path
from ebrl.sampling.paths import temperature_path as temperature_path
from ebrl.sampling.resampling import importance_resampling as importance_resampling
from ebrl.sampling.run import ChainInfo as ChainInfo
from ebrl.sampling.sampler import Sampler as Sampler
from ebrl.sampling.samples import Samples as Samples
from ebrl.sampling.samples import Trace as Trace
from ebrl.sampling.warm_up import WarmedUp as WarmedUp
from ebrl.sampling.warm_up import warm_up as warm_up
