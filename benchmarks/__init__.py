"""What streaming costs and gains, measured beside native expansion: ``python -m benchmarks``."""
