"""Many items in one process: what runs when, what is written down, how much may fail. No Airflow here."""
