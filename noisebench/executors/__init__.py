"""Where runs execute. A run is a line of JSON and a folder, never a pickle."""
