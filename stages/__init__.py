"""The pipeline's stages: each module is one command, `python -m stages.<name>`; packages are what serves them."""

__version__ = "0.2.0"
