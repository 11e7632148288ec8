"""The environments of runs: built, watched for what goes wrong, and played in."""
