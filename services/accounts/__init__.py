"""Who may call the suite: accounts, and the API keys that act for them."""
