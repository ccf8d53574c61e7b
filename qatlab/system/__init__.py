"""What talks to the system: files that are whole or not there, native code, the terminal."""
