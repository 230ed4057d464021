"""Training: the loop, its objective, its optimizer and its checkpoints."""
