"""The embedded vDPA network device: the kernel simulator's job without its quirks.

``spec`` says what it is to be, ``device`` is what a program holds, ``engine``
serves it.  Between them: ``net_device`` (the parts joined), ``negotiation``,
``iotlb`` and ``ring`` (what the driver set up), ``cvq``, ``control``,
``faults`` (planned ones), ``datapath``, ``filter``, ``outlet``, ``peer``, ``tap`` (frames), ``doorbells``.
"""
