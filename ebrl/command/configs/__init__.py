"""The configs of runs: found, read, checked against signatures, and trusted or not."""
