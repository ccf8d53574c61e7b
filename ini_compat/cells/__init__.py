"""Sections of cells and targets, as layers of the layer graph."""
