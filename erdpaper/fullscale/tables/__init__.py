"""The paper's tables: as printed, as a notebook shows them, and what they decide by themselves."""
