"""The model's side of the server: loads one model with its own packages and answers one request at a time.

Imports the standard library, its own files, and the modules beside `front` and `supervisor` (`contract`, `tensors`,
`frames`, `control`, `options`, `process`, `log`); a framework only inside its backend. Everything that knows about
HTTP lives in `front`.
"""
