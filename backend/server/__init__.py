"""FastAPI: routes only. What they call lives in the rooms below; nothing here computes."""
