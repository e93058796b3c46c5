"""The reverse process watched and disturbed: what the chapters on sampling measure [T 3]."""
