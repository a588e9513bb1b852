"""Twelve silent bugs of this course as short programs: a wrong one, the fixed one, and a test that tells them apart."""
