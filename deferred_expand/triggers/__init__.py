"""The trigger that walks a source."""
