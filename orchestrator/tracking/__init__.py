"""MLflow's record of a sweep, written by way of a spool on local disk."""
