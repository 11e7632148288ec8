"""Sweeps over the values of a config: their space, search, trials and report."""
