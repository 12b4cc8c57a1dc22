"""Processes die and stand still while streams run; afterwards every item is counted: ``make chaos``."""
