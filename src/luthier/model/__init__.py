"""Models: finding, converting, loading, saving. Importing this package does not import torch."""
