{% include cookiecutter.__kind ~ "/source.py" %}
