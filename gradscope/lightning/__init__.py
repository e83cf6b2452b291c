"""The callback, and all that knows of Lightning."""
