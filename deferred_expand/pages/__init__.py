"""Pages in Airflow's web UI, rendered in its API server. Nothing else imports this."""
