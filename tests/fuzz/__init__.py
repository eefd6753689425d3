"""Byte parsers against bytes: one function for each, which asserts what must hold for any input.

`python -m tests.fuzz` has libFuzzer look for an input that breaks one; `test_targets.py` runs a few hundred in `make
test`. The properties are mostly those of the Hypothesis tests, on bytes that no strategy would make.
"""
