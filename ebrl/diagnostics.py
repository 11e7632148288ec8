"""Diagnostics of chains and trainings, under the path by which programs know them."""

from ebrl.estimators.diagnostics import Acceptance as Acceptance
from ebrl.estimators.diagnostics import acceptance as acceptance
from ebrl.estimators.diagnostics import effective_sample_size as effective_sample_size
from ebrl.estimators.diagnostics import energy_gap as energy_gap
from ebrl.estimators.diagnostics import kernel_stein_discrepancy as kernel_stein_discrepancy
from ebrl.estimators.diagnostics import maximum_mean_discrepancy as maximum_mean_discrepancy
from ebrl.estimators.diagnostics import split_r_hat as split_r_hat
from ebrl.training.watch import DivergedError as DivergedError
