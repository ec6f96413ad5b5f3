-- Run once, by the server's owner. Where it does not exist yet, the database `mlflow` comes first:
-- PostgreSQL's container makes it by itself.
CREATE DATABASE mlflow_auth OWNER mlflow;
