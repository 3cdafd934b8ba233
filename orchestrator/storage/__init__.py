"""Where trials' files are kept: folders, stores at a URL, and what hinders writing there."""
