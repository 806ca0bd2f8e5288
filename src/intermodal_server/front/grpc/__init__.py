"""gRPC beside HTTP, in images that ask for it: `server` opens the ports, `calls` answers, `inference` and `health` say
what; `codec` and `messages` turn bytes into tensors and back.
"""
