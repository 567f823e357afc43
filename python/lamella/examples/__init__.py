"""Programs to read and to run, such as ``python -m lamella.examples.cnn``."""
