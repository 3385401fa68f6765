"""``python -m app``: serve the pages."""

from app.serve import main

if __name__ == "__main__":
    main()
