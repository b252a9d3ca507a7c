"""One file for each public image API; found by discovery, so that nothing else lists them."""
