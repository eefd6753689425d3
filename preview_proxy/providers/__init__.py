"""One file per provider; `base.py` says what one is."""
