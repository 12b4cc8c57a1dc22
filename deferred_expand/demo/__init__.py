"""The same real data loaded twice, with native and with streamed expansion: ``make demo``."""
