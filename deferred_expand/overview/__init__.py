"""Streams as people look at them: on the command line, and in the web UI."""
