"""``airflow streams``: open streams on the command line."""
