"""The catalog service: which models there are, and which of them are being served."""
