"""Sans-IO state machines: everything cvqd decides, none of what it touches.

``core`` declares the protocols (``device.VdpaDevice``, ``address_space.Region``)
that ``host`` and ``simulator`` satisfy, and imports neither.
"""
