"""Text output: statuses, events, traces and metrics, and the terminal that shows them."""
