"""The part of a delivery that runs on the host itself, so that it ends there whoever hangs up.

Only the standard library of Python 3.9: nothing is installed on a host but an engine and Compose.
`infrastructure.delivery.host_program` packs these modules into one file, which is sent there.
"""
