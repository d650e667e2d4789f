"""What people see: statuses, events, traces and metrics as text, and the terminal they are on."""
