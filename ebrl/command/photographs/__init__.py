"""The photographs of a command: found, read, worked through and written."""
