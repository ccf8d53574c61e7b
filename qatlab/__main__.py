"""The command ``python -m qatlab``, which is ``qatlab``."""

from qatlab.cli.main import main

if __name__ == "__main__":
    main()
