"""What a process needs to speak gRPC with the suite, and nothing about images."""
