"""What Airflow loads by itself (entry point ``airflow.plugins``): the expander, in every triggerer."""
