"""Items of {{ cookiecutter.__words }}."""
