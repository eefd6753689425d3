"""`python -m tests.bench`: how fast the proxy is, next to others, held against the targets in `targets.py`."""
