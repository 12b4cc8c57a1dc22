"""What a stream is, in plain Python: no module in here imports Airflow."""
