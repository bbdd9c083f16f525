"""Files that appear whole or not at all, and files from untrusted sources within bounds."""
