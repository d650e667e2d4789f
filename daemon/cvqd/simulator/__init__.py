"""The embedded vDPA network device: what the kernel's simulator does, without its quirks.

``spec`` describes it, ``device`` is its API, ``engine`` is the task that serves
it.  In between: ``net_device`` (all parts together), ``negotiation``, ``iotlb``
and ``ring`` (what the driver set up), ``cvq``, ``control``, ``faults`` (planned
ones), ``datapath``, ``filter``, ``outlet``, ``peer``, ``tap`` (frames),
``doorbells``.
"""
