"""The ground that every package stands on: errors, checks, files, the terminal, native code."""
