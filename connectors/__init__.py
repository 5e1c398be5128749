"""Provider wire protocols, turned into legs."""
