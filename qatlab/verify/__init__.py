"""Whether all forms of a trained network answer the same: ``python -m qatlab.verify RUN``."""
