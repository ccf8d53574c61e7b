"""Training: Lightning's module, phases, solver, losses, checkpoints, callbacks."""
