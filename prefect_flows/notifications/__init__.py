"""Notifications to owners of a target: messages, outbox, recipients, startup failures."""
