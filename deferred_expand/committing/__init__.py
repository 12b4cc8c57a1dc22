"""Making batches visible: where they are kept, and who commits them."""
