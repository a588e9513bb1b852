"""Twelve silent bugs as short programs: a wrong one, the fixed one, and a function that distinguishes their results."""
