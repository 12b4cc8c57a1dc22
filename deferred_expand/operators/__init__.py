"""What a DAG author sees, and what the mapped task becomes."""
