"""Estimators: integrals under an energy with their errors, exact answers, diagnostics."""

from ebrl.estimators.annealing import Annealed as Annealed
from ebrl.estimators.annealing import Annealing as Annealing
from ebrl.estimators.annealing import sigmoid_ladder as sigmoid_ladder
from ebrl.estimators.diagnostics import Acceptance as Acceptance
from ebrl.estimators.diagnostics import acceptance as acceptance
from ebrl.estimators.diagnostics import effective_sample_size as effective_sample_size
from ebrl.estimators.diagnostics import energy_gap as energy_gap
from ebrl.estimators.diagnostics import kernel_stein_discrepancy as kernel_stein_discrepancy
from ebrl.estimators.diagnostics import maximum_mean_discrepancy as maximum_mean_discrepancy
from ebrl.estimators.diagnostics import split_r_hat as split_r_hat
from ebrl.estimators.exact import exact_log_normalizer as exact_log_normalizer
from ebrl.estimators.exact import exact_log_probabilities as exact_log_probabilities
from ebrl.estimators.integrals import Bounds as Bounds
from ebrl.estimators.integrals import Estimate as Estimate
from ebrl.estimators.integrals import SoftValue as SoftValue
from ebrl.estimators.integrals import bits_per_dimension as bits_per_dimension
from ebrl.estimators.integrals import bridge as bridge
from ebrl.estimators.integrals import entropy as entropy
from ebrl.estimators.integrals import importance as importance
from ebrl.estimators.integrals import log_mean_exp as log_mean_exp
from ebrl.estimators.integrals import log_normalizer as log_normalizer
from ebrl.estimators.integrals import soft_value as soft_value
