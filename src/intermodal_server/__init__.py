"""The inference server that goes into every image; nothing here imports `intermodal`.

    supervisor (PID 1)  ->  front (HTTP, its own packages)  <->  worker (the model, its own packages)

`contract` and `golden` are also imported by `intermodal`, so they use the standard library only. The whole package
keeps to Python 3.9 syntax, because images may have a base with any Python from 3.9 on.
"""

__version__ = "0.1.0"
