"""The Panel front end: typed client, views, pages, and the ESM pieces."""
