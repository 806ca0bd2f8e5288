"""Model formats: one file each, behind one interface; `detect` chooses by content."""
