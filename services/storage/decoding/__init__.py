"""
Everything that looks into an image's bytes, in processes of their own.

``pool`` is the service's side; all other modules run in the child and import neither gRPC nor the
service, so that a child starts quickly and holds nothing worth stealing.
"""
