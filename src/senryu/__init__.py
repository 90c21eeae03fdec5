"""Senryu: text in, vectors out, over HTTP, on your own machine."""

__version__ = "0.1.0"
