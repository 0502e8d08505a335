"""Networks that see a person's picture, which the user names by their folders."""
