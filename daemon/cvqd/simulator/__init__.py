"""The embedded vDPA network device, with rules of its own.

``device`` and ``control`` are sans-IO; ``engine`` and ``datapath`` join them to eventfds and sockets.
"""
