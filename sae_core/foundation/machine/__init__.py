"""The machine: its devices, its memory, the processes that torchrun starts, environment variables."""
