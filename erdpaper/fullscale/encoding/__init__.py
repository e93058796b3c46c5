"""`erdpaper encode`: images into latents, or bytes, in files with checksums."""
