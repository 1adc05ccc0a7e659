"""Errors that the user can fix."""


class Problem(Exception):
    """Printed as one line without a traceback; the exit code is 1. Names the file, line or key, and what to do."""
