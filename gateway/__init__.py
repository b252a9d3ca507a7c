"""REST in, gRPC out: public image APIs in front of the suite's services."""
