"""The part of a delivery that runs on the host, so that it finishes if the connection is lost.

It uses only the standard library of Python 3.9, since the host has nothing but a container engine
and Compose. `infrastructure.delivery.host_program` packs these modules into one file.
"""
