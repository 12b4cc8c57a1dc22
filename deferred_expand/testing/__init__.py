"""For tests and demonstrations: a real Airflow on this machine."""
