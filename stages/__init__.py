"""The pipeline's stages: each module is one command, `python -m stages.<name>`."""

__version__ = "0.1.0"
