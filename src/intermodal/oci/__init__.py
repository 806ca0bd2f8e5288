"""The nouns of the OCI image specification, and the local store."""
