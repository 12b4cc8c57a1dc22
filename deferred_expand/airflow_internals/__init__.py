"""
The one place for what is private or version-dependent in Airflow.

``sdk`` is for where tasks are defined and run, and for triggers; ``heads`` and ``metadata`` for the
triggerer's own process, which has the metadata database. Read on Airflow 3.2.2 and 3.3.2. Each entry
says where the fact it rests on comes from.
"""
