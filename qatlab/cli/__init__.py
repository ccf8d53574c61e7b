"""The command ``qatlab``: what is asked for, done by the room that does it; errors as sentences."""
