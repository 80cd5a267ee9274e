"""Programs to try PyDTLS's interface with."""
