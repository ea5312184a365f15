"""Plumbing that the rooms of the test-suite share; knows pytest and the program's faces, nothing of its inside."""
