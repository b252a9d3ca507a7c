"""Images with names and URLs: their metadata in a database, their bytes in a back end."""
