"""From a prompt to tokens: wording, shots, chat template, loss mask."""
