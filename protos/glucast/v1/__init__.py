"""Version 1. A field keeps its number and meaning for ever; what would break a client goes into v2."""
