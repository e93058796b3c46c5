"""`erdpaper sample`: from the folder of a run to an npz of images."""
