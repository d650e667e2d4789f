"""All input and output: character device, sockets, eventfds, shared memory, logs."""
