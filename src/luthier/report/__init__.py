"""What a run folder holds, shown: a table for the terminal, one HTML file, a model card. It reads files and no more."""
