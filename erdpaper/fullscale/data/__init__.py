"""Images on disk: sets as they come, encoded folders, npz of samples and references."""
