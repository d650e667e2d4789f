"""The shipped test kit: a front-end, a driver that plays the guest, a User Mode Linux guest."""
