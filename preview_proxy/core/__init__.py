"""The rules: pure functions over bytes and frozen dataclasses.

Nothing in this folder is async, reads a clock, or does I/O, and only the standard library is imported.
"""
