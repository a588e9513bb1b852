"""Students: how they are built from a teacher, what they cost, their files."""
