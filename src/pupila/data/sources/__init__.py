"""Where pictures come from: folders, archives, downloads."""
