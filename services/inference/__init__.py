"""Jobs: admission, the durable queue, dispatch to executors, and streams of progress."""
