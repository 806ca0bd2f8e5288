"""Several processes that answer requests where the model runs in the event loop: the front, and its twins.

Takes connections from the front's listening sockets, hands them to the twins, and brings home what those have counted.
"""
