"""
Scripts that make what ships with the repository; no service imports them.
"""
