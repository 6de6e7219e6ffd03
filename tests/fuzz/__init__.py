"""Fuzzing of everything that reads bytes which it did not write.

Each `fuzz_NAME.py` has one function, `one(data)`: it gives the code under test one input and raises where a promise is broken.
`corpus/NAME/` holds inputs to begin with, and each one that once broke something. `make fuzz` runs all targets guided by coverage;
`test_fuzz.py` tries the corpus and mutations of it in every test run.
"""
