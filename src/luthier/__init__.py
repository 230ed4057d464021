"""Luthier adapts a language model to a task and measures which way of adapting it is worth having."""

__version__ = "0.1.0"
