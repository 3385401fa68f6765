"""Data in, picture out. No network, no session."""
