"""Clients of a running daemon's control socket: short-lived commands, and an exporter of metrics."""
