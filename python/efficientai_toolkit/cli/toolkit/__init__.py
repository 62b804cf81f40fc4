"""Commands about the toolkit as a whole, one file each."""
