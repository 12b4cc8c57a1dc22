"""Driving a source, page after page, in an event loop: no module in here imports Airflow."""
