"""The four gRPC services of Pictor, and what they share to speak gRPC."""
