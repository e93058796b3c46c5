"""`erdpaper evaluate`: FID, sFID, IS, precision and recall of samples against a reference."""
