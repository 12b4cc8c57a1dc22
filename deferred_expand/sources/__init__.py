"""What a stream can be made of, each kind opened as one async iterator of items and pages."""
