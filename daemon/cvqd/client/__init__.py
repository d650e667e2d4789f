"""Who asks a running daemon: short-lived commands, and an exporter of metrics."""
