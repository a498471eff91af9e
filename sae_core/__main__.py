"""``python -m sae_core``: the command line, for launchers such as torchrun that start a module."""

from sae_core.cli.program import main

if __name__ == "__main__":
    main()
