"""Front-ends: their messages, what each does to the device, and unsolicited messages to them."""
