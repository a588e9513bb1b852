"""The capstone: a small study of your own, a checker for its run folders, and one model solution."""
