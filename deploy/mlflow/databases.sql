-- MLflow's own database exists already; its logins and Optuna's studies have theirs.
CREATE DATABASE mlflow_auth;
CREATE DATABASE optuna;
