"""Where client and views meet: one file a page, and the shell they share."""
