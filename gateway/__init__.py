"""REST in, gRPC out: the five public image APIs and the native one in front of the suite's services."""
