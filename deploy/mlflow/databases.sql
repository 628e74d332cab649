-- MLflow's own database exists already. Its logins and Optuna's studies get one each.
CREATE DATABASE mlflow_auth;
CREATE DATABASE optuna;
