{% include cookiecutter.__kind ~ "/test.py" %}
