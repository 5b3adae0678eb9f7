"""Benchmarks beside an anchor, all in one form: `python3 noxfile.py bench -- NAME`."""
