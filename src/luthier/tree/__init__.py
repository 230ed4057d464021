"""The token tree: sequences with every shared beginning stored, computed and differentiated once."""
