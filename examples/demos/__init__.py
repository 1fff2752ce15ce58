"""Demonstrations: each a program, `python -m examples.demos.NAME`; `python -m examples.demos` plays all of them."""
