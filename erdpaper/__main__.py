"""`python -m erdpaper`, which is also what `accelerate launch -m erdpaper` starts."""

from erdpaper.cli import main

main()
