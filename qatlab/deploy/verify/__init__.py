"""Whether all forms of a trained network answer the same: ``qatlab verify RUN``."""
