"""The folders of runs: their files, curves, comparisons, and copies on the Hugging Face Hub."""
