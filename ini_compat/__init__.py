"""Turns an N2D2 ``.ini`` into one experiment YAML and a list of what was not understood."""
