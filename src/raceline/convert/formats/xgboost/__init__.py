"""XGBoost's own model files, JSON and UBJSON, without XGBoost."""
