"""What the person who runs the workflow can mend."""


class Problem(Exception):
    """Shown as one line, without a traceback; the exit code is 1. Names the file, line or key, and what to do."""
