"""How much goes through a model at a time when it answers."""

from __future__ import annotations

# Tokens in flight: large enough for full matrix products, small enough for the caches of a small machine.
BATCH_TOKENS = {"cpu": 4096, "cuda": 65536, "mps": 16384}
# Prompts that are continued together: each step reads all weights once for all of them.
MAX_ROWS = {"cpu": 64, "cuda": 512, "mps": 128}
# Tokens whose keys and values are held at a time.
CACHE_TOKENS = {"cpu": 32768, "cuda": 524288, "mps": 65536}
