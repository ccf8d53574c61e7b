"""Solvers and learning rate policies, as parameter groups."""
