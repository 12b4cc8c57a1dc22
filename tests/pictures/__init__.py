"""The README's pictures of the pages, taken in a browser: ``python -m tests.pictures``."""
