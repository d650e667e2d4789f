"""Front-ends: their messages, what each does to the device, and what they are told unasked."""
