"""Mutation testing: change one place of the code and see whether the tests fail."""
