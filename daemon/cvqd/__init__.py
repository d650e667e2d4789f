"""cvqd owns a vhost-vdpa network device for a virtual machine and shadows its control virtqueue."""

__version__ = "0.1.0"
