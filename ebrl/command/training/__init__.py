"""The training of agents and of energies: starts, progress, early ends."""
