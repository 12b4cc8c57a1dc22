"""DAG files in triggerers: sources that only a DAG file has, walked in processes of their own."""
