"""What the AUTOMATIC1111 dialect is made of; its routes are in ``gateway/dialects``."""
