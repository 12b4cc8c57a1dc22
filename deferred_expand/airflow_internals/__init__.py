"""
The one place for what is private or version-dependent in Airflow.

``heads``, ``metadata`` and ``listeners`` are for the triggerer's own process, which has the metadata
database; the others for where tasks are defined and run, and for triggers. Read on Airflow 3.2.2 and
3.3.2. Each entry says where the fact it rests on comes from.
"""
