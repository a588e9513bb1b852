"""LESSONS: numbered Python files that explain the library by building it again; import anything, imported by nothing."""
