"""Commands: one file each; the only place that prints or exits.

`app.main` is the entry. Importing this package costs nothing, importing `app` costs click: a command's file, rich and
the rooms are imported when they are used, because `intermodal --help` has 0.10 s.
"""
