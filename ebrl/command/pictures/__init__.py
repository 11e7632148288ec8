"""The pictures of runs: landscapes of energies, learning curves, comparisons, films."""
