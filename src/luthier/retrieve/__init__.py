"""Documents, their passages, an index of them, and search."""
