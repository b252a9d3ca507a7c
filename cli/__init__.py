"""The `pictor` command: a gRPC client of the suite like any other."""
