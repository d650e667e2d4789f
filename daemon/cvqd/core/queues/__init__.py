"""Control queues: the guest's, of which we play the device, and the shadow, of which we play the driver."""
