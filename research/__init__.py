"""What made the shipped zoo. Not part of the installed package."""
