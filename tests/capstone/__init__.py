"""The capstone: its checker and its model solution."""
