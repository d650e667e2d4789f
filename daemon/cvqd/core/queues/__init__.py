"""Control queues: on the guest queue we play the device, on the shadow queue the driver."""
