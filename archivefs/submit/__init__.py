"""Delivering reports: the durable outbox, and one module for each kind of receiver."""
